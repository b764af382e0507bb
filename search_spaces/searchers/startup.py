"""Startup: the samples of trials that no model draws, quasi-random ones of a Sobol sequence.

The points of the sequence (scrambled with the seed: Owen, 1998) fill the space more evenly than random ones. Each
domain is a dimension; one that does not apply to a sample is left out of it. It must not know how a model draws.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

from search_spaces.domains import Domain
from search_spaces.positions import drawn_at
from search_spaces.sampling import domains, resolve
from search_spaces.searchers.base import SearchProblem

if TYPE_CHECKING:
    from scipy.stats import qmc

#: Dimensions of the sequence: it takes 60 ms to set up; further domains are drawn at random.
MAX_DIMENSIONS = 1_000


class SobolStartup:
    """The sample of trial number n is the n-th point, whatever was drawn before it."""

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        paths = [path for path, _ in domains(problem.search_space)]
        self._dimensions = {path: index for index, path in enumerate(paths[:MAX_DIMENSIONS])}
        self._sequence: qmc.Sobol | None = None
        self._next = 0  # the number of the point that the sequence yields next

    def draw(self, number: int) -> dict[str, float]:
        point = self._point(number) if self._dimensions else []
        generator = random.Random(f"{self._problem.seed}/startup/{number}")
        sample: dict[str, float] = {}

        def draw(path: str, domain: Domain) -> float:
            index = self._dimensions.get(path)
            sample[path] = drawn_at(domain, generator.random() if index is None else point[index])
            return sample[path]

        resolve(self._problem.search_space, draw)
        return sample

    def _point(self, number: int) -> list[float]:
        if self._sequence is None or number < self._next:
            self._sequence, self._next = self._new_sequence(), 0
        if number > self._next:
            self._sequence.fast_forward(number - self._next)
        self._next = number + 1
        return [float(one) for one in self._sequence.random(1)[0]]

    def _new_sequence(self) -> qmc.Sobol:
        import numpy as np
        from scipy.stats import qmc

        digest = hashlib.sha256(f"{self._problem.seed}/startup".encode()).digest()
        seed = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        return qmc.Sobol(len(self._dimensions), scramble=True, seed=seed)
