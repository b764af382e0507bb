"""Encoding: samples as vectors of numbers near 0 to 1, in which a distance means something.

An interval is one column: 0 at its low end and 1 at its high end, logarithmic if it is. A choice is a column for each
alternative, so that all alternatives are equally far from each other. What does not apply to a sample has the same
value in all samples, so that it makes no difference. It must not know what is modeled.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.domains import Candidates, Choice, Domain, Interval, quantize
from search_spaces.sampling import Sample, conditions, domains
from search_spaces.spec import Spec

Vector = NDArray[np.float64]

CENTER = 0.5  # of an interval that does not apply
ALTERNATIVE = math.sqrt(0.5)  # two alternatives differ by a distance of 1
REACH = 0.5  # beyond the ends, in which samples of another search space are kept
CHANGED_CHOICES = 0.15  # of a sample near another: the probability that a choice is drawn again


class Encoding:
    """The columns of a search space. `groups` has the number of the domain of each column."""

    def __init__(self, search_space: Spec) -> None:
        self._domains: dict[str, Domain] = dict(domains(search_space))
        widths = [len(one.choice) if isinstance(one, Choice) else 1 for one in self._domains.values()]
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
            if isinstance(domain, Choice):
                vector[start : start + width] = 0.0
                if 0 <= int(sample.get(path, -1)) < width:
                    vector[start + int(sample[path])] = ALTERNATIVE
            elif isinstance(domain, Interval) and path in sample:
                vector[start] = min(max(_position(domain, sample[path]), -REACH), 1 + REACH)
        return vector

    def draw(self, generator: np.random.Generator) -> dict[str, float]:
        """A sample in which every domain is drawn independently."""
        sample: dict[str, float] = {}
        for path, domain in self._domains.items():
            if self._applies(path, sample):
                sample[path] = _draw(domain, generator)
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
            elif known and int(center[path]) < self._columns[path][1] and generator.random() >= CHANGED_CHOICES:
                sample[path] = center[path]
            else:
                sample[path] = _draw(domain, generator)
        return sample

    def _applies(self, path: str, sample: Sample) -> bool:
        return all(sample.get(choice) == index for choice, index in self._conditions[path])


def _draw(domain: Any, generator: np.random.Generator) -> float:
    if isinstance(domain, Choice):
        return int(generator.integers(len(domain.choice)))
    return _value(domain, float(generator.random()))


def _near(domain: Interval, value: float, deviation: float, generator: np.random.Generator) -> float:
    moved = abs(_position(domain, value) + float(generator.normal(0.0, deviation)))
    return _value(domain, 1 - abs(1 - moved))


def _position(domain: Interval, value: float) -> float:
    """0 at the low end, 1 at the high end."""
    low, high = _ends(domain)
    if domain.log:
        return (math.log(max(value, sys.float_info.min)) - math.log(low)) / (math.log(high) - math.log(low))
    return (value - low) / (high - low)


def _value(domain: Interval, position: float) -> float:
    """The value at a position, or at the end that is nearest to it. Candidates of a domain have equal shares."""
    position = min(max(position, 0.0), 1.0)
    if domain.step is not None and not domain.log:
        candidates = Candidates(domain)
        return candidates[min(int(position * len(candidates)), len(candidates) - 1)]
    low, high = _ends(domain)
    if domain.log:
        value = math.exp(math.log(low) + position * (math.log(high) - math.log(low)))
    else:
        value = low + position * (high - low)
    return min(max(quantize(domain, value), domain.low), domain.high)


def _ends(domain: Interval) -> tuple[float, float]:
    """Those of logarithmic whole numbers reach half a number further, so that both ends have their share."""
    margin = 0.5 if domain.log and domain.integer else 0.0
    return domain.low - margin, domain.high + margin
