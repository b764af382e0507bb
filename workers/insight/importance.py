"""Importance: how much of the differences between trials each hyperparameter explains by itself.

Functional analysis of variance of a random forest (Hutter et al., 2014), with bars: the analysis is repeated on trials
drawn with replacement, beside a hyperparameter that does not exist. What does not beat that one is noise. Optuna's
implementation gives the same shares of the same forest (tests), but takes 15 times as long and measures a logarithmic
domain by its values instead of their logarithms. Pure functions over numbers in [0, 1]. It must not know trials or
files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_TRIALS = 30  # with fewer, the bars span nearly everything
MOST_TRIALS = 400  # which take about 3 s; further ones are left out by lot
REPETITIONS = 30
TREES = 16  # of each repetition
LOW, HIGH = 0.1, 0.9  # ends of a bar, as shares of the repetitions

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bar:
    """The share of the variance that a hyperparameter explains by itself: the median, and 80 % of the repetitions."""

    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Shares:
    """A bar for each hyperparameter in the order given.

    `chance` is the largest share that a hyperparameter which does not exist had in any of the repetitions: one of many
    hyperparameters would often exceed a usual one.
    """

    bars: tuple[Bar, ...]
    chance: float

    def is_noise(self, index: int) -> bool:
        """Whether a bar cannot be distinguished from that of a hyperparameter that does not exist."""
        return self.bars[index].share <= self.chance


def shares(positions: Floats, values: Sequence[float] | Floats, seed: int = 0, fewest: int = FEWEST_TRIALS) -> Shares:
    """`positions` [trials, hyperparameters] are places within domains, from 0 to 1; `values` are the trials' results.

    Raises ValueError for fewer than `fewest` trials, and where all values are equal.
    """
    outcomes = np.asarray(values, dtype=np.float64)
    if len(outcomes) < fewest:
        raise ValueError(f"must have at least {fewest} trials (got {len(outcomes)})")
    if np.ptp(outcomes) == 0:
        raise ValueError("must have trials whose values differ")
    random = np.random.default_rng(seed)
    if len(outcomes) > MOST_TRIALS:
        kept = random.choice(len(outcomes), MOST_TRIALS, replace=False)
        positions, outcomes = positions[kept], outcomes[kept]
    repetitions = (_repetition(positions, outcomes, random) for _ in range(REPETITIONS))
    found = [repetition for repetition in repetitions if repetition is not None]
    if not found:
        raise ValueError("must have trials whose values differ")
    explained = np.array(found)
    low, median, high = np.quantile(explained[:, :-1], (LOW, 0.5, HIGH), axis=0)
    bars = tuple(Bar(*map(float, bar)) for bar in zip(median, low, high, strict=True))
    return Shares(bars, float(explained[:, -1].max()))


def forest_shares(trees: Sequence[object], columns: int) -> Floats | None:
    """The share that each column explains by itself, averaged over the trees that separate any values; None if none
    does."""
    found = [explained for tree in trees if (explained := _tree_shares(tree, columns)) is not None]
    return np.mean(found, axis=0) if found else None


def _repetition(positions: Floats, outcomes: Floats, random: np.random.Generator) -> Floats | None:
    from sklearn.ensemble import RandomForestRegressor

    drawn = random.integers(len(outcomes), size=len(outcomes))
    columns = np.column_stack((positions, random.random(len(outcomes))))[drawn]
    forest = RandomForestRegressor(TREES, random_state=int(random.integers(2**31)))
    forest.fit(columns, outcomes[drawn])
    return forest_shares([estimator.tree_ for estimator in forest.estimators_], columns.shape[1])


def _tree_shares(tree: object, columns: int) -> Floats | None:
    """Each leaf is a box of the unit cube with one value. The marginal of a column is a step function."""
    low, high, values = _leaves(tree, columns)
    widths = high - low
    volumes = widths.prod(1)
    mean = volumes @ values
    variance = volumes @ (values - mean) ** 2
    if variance <= 0:
        return None
    explained = np.empty(columns)
    for column in range(columns):
        cuts, places = np.unique(np.concatenate((low[:, column], high[:, column])), return_inverse=True)
        density = np.divide(volumes * values, widths[:, column], where=volumes > 0, out=np.zeros_like(volumes))
        rises = np.bincount(places, np.concatenate((density, -density)), len(cuts))
        marginal = np.cumsum(rises)[:-1]
        explained[column] = np.diff(cuts) @ (marginal - mean) ** 2
    found: Floats = explained / variance
    return found


def _leaves(tree: object, columns: int) -> tuple[Floats, Floats, Floats]:
    """The corners and the values of the leaves, from scikit-learn's arrays of nodes."""
    features, thresholds, left, right, value = (
        getattr(tree, name) for name in ("feature", "threshold", "children_left", "children_right", "value")
    )
    low, high = np.zeros((len(features), columns)), np.ones((len(features), columns))
    for node in np.flatnonzero(left >= 0):  # a parent comes before its children
        for child in (left[node], right[node]):
            low[child], high[child] = low[node], high[node]
        high[left[node], features[node]] = low[right[node], features[node]] = thresholds[node]
    is_leaf = left < 0
    return low[is_leaf], high[is_leaf], value[is_leaf, 0, 0]
