"""Intervals: how far an accuracy that was measured on some images may be from the true one.

Pure functions. Owns the level of all intervals that Rung reports, and the test of two accuracies. It must not know
trials or files.
"""

from __future__ import annotations

import math
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


def is_lower(accuracy: float, images: int, than: float, of_images: int) -> bool:
    """Whether an accuracy on `images` images is lower than another one, on other images, beyond what chance explains.

    Fisher's exact one-sided test of two samples, at 5 %. A share of an image counts as wrong.
    """
    right, right_than = round(accuracy * images), math.floor(than * of_images)
    table = [[right, images - right], [right_than, of_images - right_than]]
    return bool(stats.fisher_exact(table, alternative="less").pvalue <= 1 - LEVEL)
