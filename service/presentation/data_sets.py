"""Data sets: what is shown of their images, and of the disk space that they and experiments take."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.datasets.report import DataReport
from search_spaces.phrases import listed, quoted, size_text
from service.contract.schemas import DiskUse
from service.presentation.text import Fact, Table, figure

#: Names of kinds of files where they differ from the words that are shown.
KIND_NAMES = {"pictures": "plots"}


def classes(report: DataReport) -> Table:
    """One row for each class, one column for each split, and the sums."""
    splits = tuple(report.counts)
    rows = [
        (quoted(name), *(str(report.counts[split][label]) for split in splits))
        for label, name in enumerate(report.classes)
    ]
    sums = (f"{len(rows)} classes", *(str(report.images(split)) for split in splits))
    return Table(("class", *splits), (*rows, sums), numeric=frozenset(range(1, len(splits) + 1)))


def data(report: DataReport, warnings: Sequence[str] = (), most_classes: int = 10) -> list[Fact]:
    """What is known of a data set, without the notes that are shown as layout or warning."""
    images = ", ".join(f"{report.images(split)} {split}" for split in report.counts)
    where = f"{report.name} {report.path}" if report.path else report.name
    lines = [Fact("data", f"{where}: {images}; images of {'x'.join(map(str, report.shape))}")]
    lines.append(Fact("classes", f"{len(report.classes)}: {listed(map(quoted, report.classes), most_classes)}"))
    if report.layout:
        lines.append(Fact("layout", report.layout))
    if report.sizes:
        others = [f"{report.other_sizes} of other sizes"] if report.other_sizes else []
        lines.append(Fact("sizes", ", ".join([f"{count} of {size}" for size, count in report.sizes.items()] + others)))
    if report.modes:
        lines.append(Fact("modes", ", ".join(f"{count} {mode}" for mode, count in report.modes.items())))
    if report.values:
        low, high = map(figure, report.values)
        used = f"; {' and '.join(map(figure, report.value_range))} are black and white" if report.value_range else ""
        lines.append(Fact("values", f"{low} to {high}{used}"))
    lines.append(Fact("test set", f"sha256 {report.test_sha256}"))
    shown = {report.layout, *(warning.removeprefix("dataset: ") for warning in warnings)}
    return lines + [Fact("note", note) for note in report.notes if note not in shown]


def cache_use(folder: str, size: float) -> Fact:
    """The disk space that decoded data sets take on this machine."""
    return Fact("cache", f"{size_text(size)} of decoded data sets in {folder}")


def disk_use(use: DiskUse) -> Fact:
    """The disk space that an experiment uses, the largest kind of file first."""
    kinds = sorted(use.bytes_by_kind.items(), key=lambda item: -item[1])
    parts = ", ".join(f"{KIND_NAMES.get(kind, kind)} {size_text(size)}" for kind, size in kinds if size)
    return Fact("disk", f"{size_text(use.total_bytes)}{f' ({parts})' if parts else ''}")
