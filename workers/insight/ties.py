"""Ties: which trials are worse than the winner, and which only look so on these images.

Pure functions. It must not know trials or files.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

#: Probability that any trial that equals the winner is called worse, if the winner had been named before. It is the
#: best on the same images, so that of trials that equal it each is called worse in up to 7 % of searches (simulated: 10
#: to 40 trials, 1,000 to 6,000 images).
ERROR_RATE = 0.05


def worse_than(right: NDArray[np.bool_], winner: int) -> NDArray[np.bool_]:
    """For each row of `right` [trials, images] whether its trial is worse than the one in row `winner`.

    McNemar's exact one-sided test on the images that only one of the two gets right (McNemar, 1947), with the
    correction of Holm (1979) for the number of trials. The others cannot be distinguished from the winner.
    """
    only_winner = (right[winner] & ~right).sum(1)
    only_other = (~right[winner] & right).sum(1)
    chances = stats.binom.sf(only_winner - 1, only_winner + only_other, 0.5)
    others = np.delete(np.arange(len(right)), winner)
    order = others[np.argsort(chances[others], kind="stable")]
    allowed = ERROR_RATE / np.arange(len(order), 0, -1)
    is_worse = np.zeros(len(right), bool)
    is_worse[order] = np.logical_and.accumulate(chances[order] <= allowed)
    return is_worse
