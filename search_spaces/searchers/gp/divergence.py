"""Divergence: how probable it is that a network diverges, from trials of which some did.

Good values often lie next to values with which networks diverge, so a model of values only proposes many of these.
This is a Gaussian process of the outcomes, 1 and 0, whose prediction is taken for a probability; its scales tell which
hyperparameters decide. The number of trials that it is fitted to is bounded. It must not know how a sample is proposed.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from search_spaces.searchers.base import Finding, TrialResult
from search_spaces.searchers.gp.encoding import Vector
from search_spaces.searchers.gp.process import GaussianProcess, fit

LEAST = 3  # trials that diverged, before which nothing is known
#: Newest trials of either outcome that the process is fitted to: a search draws near to the border between them.
MOST = 30
LARGEST = 0.99  # probability: no trial is impossible


class Divergence:
    """Informed as a `SearchAlgorithm` is. `groups` has the number of the domain of each column of a vector."""

    def __init__(self, groups: NDArray[np.intp]) -> None:
        self._groups = groups
        self._threads = ThreadpoolController()
        self._vectors: dict[int, Vector] = {}
        self._diverged: dict[int, bool] = {}  # trials with a finished epoch

    def replay(self, number: int, vector: Vector) -> None:
        self._vectors[number] = vector

    def report(self, number: int, epoch: int, value: float) -> None:
        if number in self._vectors and math.isfinite(value):
            self._diverged.setdefault(number, False)

    def observe(self, result: TrialResult) -> None:
        if result.number in self._vectors and result.finding is Finding.DIVERGED:
            self._diverged[result.number] = True

    def fitted(self) -> Outcomes | None:
        """None while too little is known."""
        numbers = sorted(self._diverged)
        outcomes = {outcome: [one for one in numbers if self._diverged[one] is outcome] for outcome in (True, False)}
        if len(outcomes[True]) < LEAST or not outcomes[False]:
            return None
        chosen = [*outcomes[True][-MOST:], *outcomes[False][-MOST:]]
        points = np.stack([self._vectors[number] for number in chosen])
        values = np.array([float(self._diverged[number]) for number in chosen])
        with self._threads.limit(limits=1):  # several threads take longer for matrices of this size
            return Outcomes(points, values, self._groups)


class Outcomes:
    """The process, fitted to outcomes float64 [N] at points float64 [N, columns]."""

    def __init__(self, points: NDArray[np.float64], outcomes: NDArray[np.float64], groups: NDArray[np.intp]) -> None:
        self._mean, self._scale = float(outcomes.mean()), float(outcomes.std())
        levels, values = np.zeros(len(points)), (outcomes - self._mean) / self._scale
        self._process = GaussianProcess(points, levels, values, fit(points, levels, values, groups))

    def probability(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """That a network diverges at each of points float64 [M, columns]: float64 [M], from 0 to LARGEST."""
        means, _ = self._process.predict(points, 0.0)
        found: NDArray[np.float64] = np.clip(self._mean + self._scale * means, 0.0, LARGEST)
        return found
