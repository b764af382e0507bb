"""Checks: what the names, the sizes and a few of the files tell of a data set before anything is decoded.

Their cost is bounded, because the service makes them while somebody waits. It must not know how images are decoded.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from search_spaces.datasets import shares
from search_spaces.datasets.image_folder.findings import File, identical
from search_spaces.datasets.image_folder.layout import FoundImages

MAX_COMPARED_FILES = 2000  # that are read
MAX_COMPARED_BYTES = 32 * 2**20


def notes(found: FoundImages, validation_fraction: float) -> Iterator[str]:
    """Sentences for a person: what was left out, sets that are too small, and files that are in two sets or classes.

    Of files that have the size of another one, the smallest are compared, up to MAX_COMPARED_FILES.
    """
    yield from found.notes
    if "validation" not in found.parts:
        yield from shares.notes_of_cut(found.counts("train"), validation_fraction)
    for part, counts in _counts(found, validation_fraction).items():
        yield from shares.notes(part, found.class_names, counts)
    yield from identical(list(_digested(found)), found.class_names, "validation" not in found.parts)


def _counts(found: FoundImages, validation_fraction: float) -> dict[str, list[int]]:
    """The number of images of each class in the validation and in the test set."""
    counts = {part: found.counts(part) for part in found.parts}
    cut = [shares.held_out(count, validation_fraction) for count in counts["train"]]
    return {"validation": counts.get("validation", cut), "test": counts["test"]}


def _digested(found: FoundImages) -> Iterator[File]:
    """Those files that may be equal to another one, with their digests. Files that cannot be read are left out."""
    sized: list[tuple[int, str, int, Path]] = []
    for part, images in found.parts.items():
        for label, path in images:
            try:
                sized.append((path.stat().st_size, part, label, path))
            except OSError:
                continue
    often = Counter(size for size, *_ in sized)
    left = MAX_COMPARED_BYTES
    for size, part, label, path in sorted(item for item in sized if often[item[0]] > 1)[:MAX_COMPARED_FILES]:
        left -= size
        if left < 0:
            return
        try:
            yield File(part, label, found.name(path), hashlib.sha256(path.read_bytes()).hexdigest())
        except OSError:
            continue
