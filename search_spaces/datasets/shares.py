"""Shares: how many images of each class are held out for a set, and which sets are too small to measure by.

Pure functions of counts. It must not know where images are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from search_spaces.phrases import counted, listed, quoted

MIN_IMAGES = 100  # of a set by which accuracy is measured: with fewer, one image is more than 1 % of it
MOST_EXCESS = 2.0  # times the fraction that was asked for, beyond which a note says so
#: Set -> what it is used for.
MEASURED = {"validation": "by which trials are compared", "test": "that is reported"}


def held_out(count: int, fraction: float) -> int:
    """The nearest whole share of a class. A class of two images or more keeps one and gives one."""
    return min(max(1, round(fraction * count)), max(0, count - 1))


def notes_of_cut(counts: Sequence[int], fraction: float) -> Iterator[str]:
    """What a person should know where the validation set is cut from so many training images of each class."""
    taken, total = sum(held_out(count, fraction) for count in counts), sum(counts)
    if taken > MOST_EXCESS * fraction * total:
        yield (
            f"the validation set takes {taken} of {total} training images, although validation_fraction is "
            f"{fraction:g}: of each class with two images or more, at least one is held out"
        )


def notes(part: str, class_names: Sequence[str], counts: Sequence[int]) -> Iterator[str]:
    """What a person should know of a set, one of MEASURED, by the number of its images in each class."""
    total = sum(counts)
    if 0 < total < MIN_IMAGES:
        images = counted(total, "image")
        yield f"the {part} set has {images}: one is {100 / total:.3g} % of the accuracy {MEASURED[part]}"
    if absent := [quoted(name) for name, count in zip(class_names, counts, strict=True) if not count]:
        yield f"the {part} set has no images of {listed(absent)}"
    if single := [quoted(name) for name, count in zip(class_names, counts, strict=True) if count == 1]:
        yield f"the {part} set has a single image of {listed(single)}"
