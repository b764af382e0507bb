"""Encoding: samples as vectors of numbers near 0 to 1, in which a distance means something.

An interval is one column: 0 at its low end and 1 at its high end, logarithmic if it is. A choice is a column for each
alternative, so that all alternatives are equally far from each other; a choice of numbers may be one column, so that
neighbors are near. What does not apply to a sample has the same value in all samples, so that it makes no difference.
It must not know what is modeled.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from search_spaces.domains import Choice, Domain, Interval
from search_spaces.positions import drawn_at, orders, position_of, value_at
from search_spaces.sampling import Sample, conditions, domains
from search_spaces.spec import Spec

Vector = NDArray[np.float64]

CENTER = 0.5  # of an interval that does not apply
ALTERNATIVE = math.sqrt(0.5)  # two alternatives differ by a distance of 1
REACH = 0.5  # beyond the ends, in which samples of another search space are kept
CHANGED_CHOICES = 0.15  # of a sample near another: the probability that a choice is drawn again, or the next number


class Encoding:
    """The columns of a search space. `groups` has the number of the domain of each column.

    `ordered`: whether a choice of numbers is one column.
    """

    def __init__(self, search_space: Spec, ordered: bool = True) -> None:
        self._domains: dict[str, Domain] = dict(domains(search_space))
        self._orders = orders(search_space) if ordered else {}
        self._ranks = {path: {index: rank for rank, index in enumerate(order)} for path, order in self._orders.items()}
        self._alternatives = {path: len(one.choice) for path, one in self._domains.items() if isinstance(one, Choice)}
        widths = [1 if path in self._orders else self._alternatives.get(path, 1) for path in self._domains]
        self.groups: NDArray[np.intp] = np.repeat(np.arange(len(widths)), widths)
        starts = np.cumsum([0, *widths])
        self._columns = {
            path: (int(start), width) for path, start, width in zip(self._domains, starts[:-1], widths, strict=True)
        }
        self._conditions = conditions(search_space)

    def encode(self, sample: Sample) -> Vector:
        """float64 [columns]. Values that the search space does not have, as in an imported trial, are its nearest."""
        vector = np.full(len(self.groups), CENTER)
        for path, (start, width) in self._columns.items():
            domain = self._domains[path]
            if path in self._ranks:
                if path in sample and int(sample[path]) in self._ranks[path]:
                    vector[start] = self._ranks[path][int(sample[path])] / (len(self._ranks[path]) - 1)
            elif isinstance(domain, Choice):
                vector[start : start + width] = 0.0
                if 0 <= int(sample.get(path, -1)) < width:
                    vector[start + int(sample[path])] = ALTERNATIVE
            elif isinstance(domain, Interval) and path in sample:
                vector[start] = min(max(position_of(domain, sample[path]), -REACH), 1 + REACH)
        return vector

    def draw(self, generator: np.random.Generator) -> dict[str, float]:
        """A sample in which every domain is drawn independently."""
        sample: dict[str, float] = {}
        for path, domain in self._domains.items():
            if self._applies(path, sample):
                sample[path] = drawn_at(domain, float(generator.random()))
        return sample

    def draw_near(
        self, center: Sample, deviation: float, share: float, generator: np.random.Generator
    ) -> dict[str, float]:
        """A sample in which a `share` of the intervals moved by a normal `deviation`, reflected at the ends."""
        sample: dict[str, float] = {}
        for path, domain in self._domains.items():
            if not self._applies(path, sample):
                continue
            known = path in center
            if isinstance(domain, Interval) and known:
                moves = generator.random() < share or not domain.low <= center[path] <= domain.high
                sample[path] = _near(domain, center[path], deviation, generator) if moves else center[path]
            elif known and int(center[path]) < self._alternatives[path] and generator.random() >= CHANGED_CHOICES:
                sample[path] = center[path]
            elif known and int(center[path]) in self._ranks.get(path, {}):
                sample[path] = self._neighbor(path, int(center[path]), generator)
            else:
                sample[path] = drawn_at(domain, float(generator.random()))
        return sample

    def _neighbor(self, path: str, index: int, generator: np.random.Generator) -> int:
        """The next number below or above; at an end the only one."""
        rank, last = self._ranks[path][index], len(self._orders[path]) - 1
        above = rank == 0 or (rank < last and generator.random() < 0.5)
        return self._orders[path][rank + 1 if above else rank - 1]

    def _applies(self, path: str, sample: Sample) -> bool:
        return all(sample.get(choice) == index for choice, index in self._conditions[path])


def _near(domain: Interval, value: float, deviation: float, generator: np.random.Generator) -> float:
    moved = abs(position_of(domain, value) + float(generator.normal(0.0, deviation)))
    return value_at(domain, 1 - abs(1 - moved))
