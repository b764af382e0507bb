"""Findings: what a person should know of the images of a folder, from what was measured while they were decoded.

Pure functions over records. It must not know how images are found or decoded.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from search_spaces.datasets.report import LEAK
from search_spaces.phrases import counted, listed, quoted

MAX_SIDES_RATIO = 3.0  # beyond it, resizing to a square distorts what is seen
EXAMPLES = 5  # named where nothing is wrong with the files
LISTED_SIZES = 5  # in the facts; the other sizes are counted


@dataclass(frozen=True)
class File:
    """One file. `part` and `label` are where it belongs."""

    part: str
    label: int
    name: str
    sha256: str

    noun: ClassVar[str] = "file"

    @property
    def content(self) -> str:
        """Equal for two that are the same."""
        return self.sha256


@dataclass(frozen=True)
class Record(File):
    """One decoded image: what is known of its file, and what `pictures.Picture` says of it.

    `pixels_sha256` is that of the decoded pixels, which files of other formats may share.
    """

    noun: ClassVar[str] = "image"

    shape: tuple[int, int]
    mode: str
    levels: tuple[float, float] | None
    composited: bool
    frames: bool
    inverted: bool
    not_finite: bool
    invisible: bool
    pixels_sha256: str

    @property
    def content(self) -> str:
        return self.pixels_sha256


def notes(records: Sequence[Record], class_names: Sequence[str], constant: Sequence[int]) -> Iterator[str]:
    """Sentences for a person. `constant` are the labels whose images are all equal once decoded."""
    yield from _unusual_sizes(records)
    if composited := [record.name for record in records if record.composited]:
        images = counted(len(composited), "image has", "images have")
        yield f"{images} transparent pixels, which were drawn on the background: {listed(composited, EXAMPLES)}"
    if several := [record.name for record in records if record.frames]:
        files = counted(len(several), "file holds", "files hold")
        yield f"{files} several images, of which the first was read: {listed(several, EXAMPLES)}"
    if constant:
        names = listed(quoted(class_names[label]) for label in constant)
        yield f"all images of a class are equal once decoded: {names}"
    yield from identical(records, class_names, all(record.part != "validation" for record in records))


def scaling(records: Sequence[Record], value_range: Sequence[float], how: str) -> Iterator[str]:
    """What became of values that are not 8-bit. `how`: where the range comes from."""
    low, high = value_range
    deep = [(record, record.levels) for record in records if record.levels]
    least, most = min(levels[0] for _, levels in deep), max(levels[1] for _, levels in deep)
    names = listed([record.name for record, _ in deep], EXAMPLES)
    inverted = [record.name for record, _ in deep if record.inverted]
    yield (
        f"{counted(len(deep), 'image is not 8-bit and holds', 'images are not 8-bit and hold')} values from {least:g} "
        f"to {most:g}; {low:g} became black and {high:g} white ({how}"
        f"{f'; the other way round in {len(inverted)} of them, as their files say' if inverted else ''}): {names}"
    )
    if clipped := [record.name for record, levels in deep if levels[0] < low or levels[1] > high]:
        images = counted(len(clipped), "image holds", "images hold")
        yield f"{images} values outside {low:g} to {high:g}, which were clipped: {listed(clipped, EXAMPLES)}"
    if odd := [record.name for record in records if record.not_finite]:
        images = counted(len(odd), "image holds", "images hold")
        yield f"{images} NaN or infinite values; NaN and -inf became {low:g}, inf {high:g}: {listed(odd, EXAMPLES)}"
    if others := len(records) - len(deep):
        yield f"{counted(others, 'other image is', 'other images are')} 8-bit and not scaled"


def facts(records: Sequence[Record]) -> dict[str, Any]:
    """What is counted, as JSON: sizes and modes of the files, and the digest of the test files."""
    sizes = Counter(record.shape for record in records)
    common = {f"{width}x{height}": count for (width, height), count in sizes.most_common(LISTED_SIZES)}
    return {
        "sizes": common,
        "other_sizes": sum(sizes.values()) - sum(common.values()),
        "not_finite": sum(record.not_finite for record in records),
        "modes": dict(Counter(record.mode for record in records).most_common()),
        "test_sha256": test_digest(records),
    }


def test_digest(records: Sequence[Record]) -> str:
    """A digest of the content and the classes of the test files, whatever their names and order."""
    lines = sorted(f"{record.label} {record.sha256}\n" for record in records if record.part == "test")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _unusual_sizes(records: Sequence[Record]) -> Iterator[str]:
    """Nine of ten others share one size, or the sides of the image differ by more than MAX_SIDES_RATIO."""
    common, count = Counter(record.shape for record in records).most_common(1)[0]
    uniform = count >= 0.9 * len(records)
    unusual = [
        f"{record.name} ({width}x{height})"
        for record in records
        for width, height in [record.shape]
        if (uniform and record.shape != common) or max(width, height) > MAX_SIDES_RATIO * min(width, height)
    ]
    if unusual:
        images = counted(len(unusual), "image of unusual size was", "images of unusual size were")
        yield f"{images} resized like the others: {listed(unusual)}"


def identical(records: Sequence[File], class_names: Sequence[str], validation_is_cut: bool) -> Iterator[str]:
    """What is in two parts makes a result better than it is, and so does what is twice in a part that is cut; of what
    is in two classes, one label is wrong."""
    noun = records[0].noun if records else ""
    first: dict[tuple[str, str], File] = {}
    for record in records:
        first.setdefault((record.part, record.content), record)
    for part, earlier, consequence in (
        ("test", ("train", "validation"), f", {LEAK}"),
        ("validation", ("train",), ""),
    ):
        pairs = []
        for record in records:
            same = [first[other, record.content] for other in earlier if (other, record.content) in first]
            if record.part == part and same:
                pairs.append(f"{record.name} = {same[0].name}")
        if pairs:
            where = " and ".join(earlier)
            files = counted(
                len(pairs), f"{noun} of {part} is identical to one", f"{noun}s of {part} are identical to {noun}s"
            )
            yield f"{files} of {where}{consequence}: {listed(pairs)}"
    if validation_is_cut:
        copies = [
            f"{record.name} = {first['train', record.content].name}"
            for record in records
            if record.part == "train" and first["train", record.content] is not record
        ]
        if copies:
            one, many = f"{noun} of train is a copy of another", f"{noun}s of train are copies of others"
            files = counted(len(copies), one, many)
            yield f"{files}, and the validation set is cut from train, so its result may look better: {listed(copies)}"
    labels = _labels(records)
    conflicts = [
        f"{record.name} is also in {quoted(class_names[min(labels[record.content] - {record.label})])}"
        for record in records
        if len(labels[record.content]) > 1
    ]
    if conflicts:
        files = counted(len(conflicts), f"{noun} is", f"{noun}s are")
        yield f"{files} in more than one class: {listed(conflicts)}"


def _labels(records: Sequence[File]) -> Mapping[str, set[int]]:
    labels: dict[str, set[int]] = {}
    for record in records:
        labels.setdefault(record.content, set()).add(record.label)
    return labels
