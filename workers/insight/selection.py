"""Selection: what the accuracy of a trial is worth that was chosen because it was the best of many.

The best of 40 equal trials looks better on the validation images than it is. Pure functions. It must not know trials or
files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from workers.insight.intervals import LEVEL, Estimate, of_accuracy

DRAWS = 1000
BLOCK = 2**22  # weights in memory at a time: 16 MB


def expected_of_choice(right: NDArray[np.bool_ | np.int64], seed: int = 0, runs: int = 1) -> Estimate:
    """The accuracy to expect of the best row of `right` [trials, images] on images that did not choose it.

    With several `runs` of each trial, `right` says how many of them have an image right.

    Bootstrap bias correction (Tsamardinos et al., 2018): images are drawn with replacement, the best row on them is
    chosen, ties at random, and measured on the images that were not drawn. The interval holds the middle of these
    accuracies; it is too wide rather than too narrow, because each is measured on 37 % of the images. Where nearly all
    images are right, the draws hardly differ, so it is at least Wilson's interval of that many images. Each row is of a
    trial's best epoch, which all images have chosen: that part of the choice is not corrected.
    """
    trials, images = right.shape
    random = np.random.default_rng(seed)
    matrix = right.T.astype(np.float32)
    found = np.full(DRAWS, np.nan)
    step = max(1, BLOCK // images)
    for start in range(0, DRAWS, step):
        size = min(step, DRAWS - start)
        drawn = random.integers(images, size=(size, images)) + images * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * images).reshape(size, images)
        scores = times.astype(np.float32) @ matrix  # sums of whole numbers, which are exact below 2**24
        chosen = (scores + random.random((size, trials), np.float32) / 2).argmax(1)
        left_out = times == 0
        with np.errstate(invalid="ignore"):  # all images may be drawn where there are few
            found[start : start + size] = (left_out * right[chosen]).sum(1) / (runs * left_out.sum(1))
    found = found[np.isfinite(found)]
    if not len(found):
        raise ValueError(f"must have at least 2 images (got {images})")
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = float(found.mean())
    least = of_accuracy(value, images)
    return Estimate(value, min(float(low), least.low), max(float(high), least.high))
