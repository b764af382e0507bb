"""Intervals: how far an accuracy that was measured on some images may be from the true one.

Pure functions. Owns the level of all intervals that Rung reports. It must not know trials or files.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy import stats

LEVEL = 0.95  # of every interval


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1], and the ends of its interval."""

    value: float
    low: float
    high: float


def of_accuracy(accuracy: float, images: int) -> Estimate:
    """Wilson's interval of an accuracy on `images` images. Unlike Wald's, it is right near 1 and for few images.

    Raises ValueError for no images, and for an accuracy that is no share of them.
    """
    right = round(accuracy * images)
    if images < 1 or not 0 <= right <= images:
        raise ValueError(f"the accuracy must be a share of at least 1 image (got {accuracy} of {images})")
    found = stats.binomtest(right, images).proportion_ci(LEVEL, method="wilson")
    return Estimate(accuracy, float(found.low), float(found.high))


def is_overtuned(expected: Estimate, test: Estimate) -> bool:
    """Whether the test result is so much lower than the validation let expect that chance does not explain it."""
    return test.high < expected.low
