"""Report: what is known of a data set once it is read and split. It must not know who reads the report."""

from __future__ import annotations

from typing import Any

import torch

from search_spaces.datasets.base import DatasetSpec
from search_spaces.datasets.report import DataReport
from workers.data.digest import digest
from workers.data.splits import Splits

#: Facts of a reader that the report has under the same name.
SAME_FACTS = ("layout", "sizes", "other_sizes", "modes", "values", "not_finite", "skipped")


def report(dataset: DatasetSpec, splits: Splits) -> DataReport:
    """The report on a data set. Reads the test set to count it, and to digest it where its reader did not."""
    facts = splits.facts
    test_images, test_labels = splits.test()
    labels = {"train": splits.train_labels, "validation": splits.validation_labels, "test": test_labels}
    known: dict[str, Any] = {name: facts[name] for name in SAME_FACTS if facts.get(name) is not None}
    return DataReport(
        name=dataset.name,
        path=getattr(dataset, "path", None),
        classes=list(splits.class_names),
        counts={part: torch.bincount(of, minlength=splits.classes).tolist() for part, of in labels.items()},
        shape=list(splits.train_images.shape[1:]),
        value_range=splits.decoding.get("value_range") if facts.get("values") else None,
        notes=list(splits.notes),
        train_sha256=splits.digests.get("train"),
        validation_sha256=splits.digests.get("validation"),
        test_sha256=facts.get("test_sha256") or digest(test_images.numpy(), test_labels.numpy()),
        **known,
    )


def difference(earlier: DataReport, found: DataReport) -> str:
    """What differs between two readings of a data set whose results would not be comparable; empty if nothing does.

    A report of an earlier version has no digests of the training and validation images, which are then not compared.
    """
    if earlier.classes != found.classes:
        return f"its classes are {', '.join(found.classes)} instead of {', '.join(earlier.classes)}"
    if earlier.counts != found.counts:
        now, before = (", ".join(f"{one.images(part)} {part}" for part in one.counts) for one in (found, earlier))
        return f"it has other images of some classes: {now} instead of {before}"
    digests = {
        "training": (earlier.train_sha256, found.train_sha256),
        "validation": (earlier.validation_sha256, found.validation_sha256),
        "test": (earlier.test_sha256, found.test_sha256),
    }
    others = [part for part, (before, now) in digests.items() if before and now and before != now]
    return f"its {' and '.join(others)} images are others" if others else ""
