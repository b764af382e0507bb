"""Encoding: samples as vectors of numbers near 0 to 1, in which a distance means something.

An interval is one column: 0 at its low end and 1 at its high end, logarithmic if it is. A choice is a column for each
alternative, so that all alternatives are equally far from each other; a choice of numbers may be one column, so that
neighbors are near. What does not apply to a sample has the same value in all samples, so that it makes no difference.

Many samples at once are rows: float64 [samples, domains], values of intervals and indices of alternatives, NaN where a
domain does not apply. It must not know what is modeled.
"""

from __future__ import annotations

import math
import sys

import numpy as np
from numpy.typing import NDArray

from search_spaces.domains import Candidates, Choice, Domain, Interval
from search_spaces.positions import ends, orders
from search_spaces.sampling import Sample, conditions, domains
from search_spaces.spec import Spec

Vector = NDArray[np.float64]
Rows = NDArray[np.float64]

CENTER = 0.5  # of an interval that does not apply
ALTERNATIVE = math.sqrt(0.5)  # two alternatives differ by a distance of 1
REACH = 0.5  # beyond the ends, in which samples of another search space are kept
CHANGED_CHOICES = 0.15  # of a sample near another: the probability that a choice is drawn again, or the next number


class Encoding:
    """The columns of a search space. `groups` has the number of the domain of each column.

    `ordered`: whether a choice of numbers is one column.
    """

    def __init__(self, search_space: Spec, ordered: bool = True) -> None:
        known: dict[str, Domain] = dict(domains(search_space))
        self._paths = list(known)
        numbers = {path: number for number, path in enumerate(known)}
        self._scales = _Scales(list(known.values()))
        self._orders = {
            numbers[path]: np.array(order) for path, order in (orders(search_space) if ordered else {}).items()
        }
        self._conditions = [
            (numbers[path], [(numbers[choice], index) for choice, index in needed])
            for path, needed in conditions(search_space).items()
            if needed
        ]
        widths = [
            len(one.choice) if isinstance(one, Choice) and number not in self._orders else 1
            for number, one in enumerate(known.values())
        ]
        self.groups: NDArray[np.intp] = np.repeat(np.arange(len(widths)), widths)
        self._columns = np.cumsum([0, *widths])[:-1]
        self._absent = np.full(len(self.groups), CENTER)
        self._choices = [number for number, one in enumerate(known.values()) if isinstance(one, Choice)]
        for number in set(self._choices) - self._orders.keys():
            self._absent[self.groups == number] = 0.0

    def encode(self, sample: Sample) -> Vector:
        """float64 [columns]. Values that the search space does not have, as in an imported trial, are its nearest."""
        vector: Vector = self.vectors(self.row(sample)[None])[0]
        return vector

    def draw(self, generator: np.random.Generator) -> dict[str, float]:
        """A sample in which every domain is drawn independently."""
        return self.sample(self.draws(1, generator)[0])

    def row(self, sample: Sample) -> Vector:
        """float64 [domains]."""
        return np.array([sample.get(path, math.nan) for path in self._paths])

    def sample(self, row: Vector) -> dict[str, float]:
        values = zip(self._paths, row.tolist(), self._scales.whole, strict=True)
        return {path: int(value) if whole else value for path, value, whole in values if value == value}

    def vectors(self, rows: Rows) -> NDArray[np.float64]:
        """float64 [samples, columns]."""
        found = np.tile(self._absent, (len(rows), 1))
        intervals = self._scales.intervals
        places = np.clip(self._scales.positions(rows), -REACH, 1 + REACH)
        found[:, self._columns[intervals]] = np.where(np.isnan(places), CENTER, places)
        for number in self._choices:
            index, known = self._index(rows[:, number], number)
            column, order = self._columns[number], self._orders.get(number)
            if order is None:
                found[known, column + index] = ALTERNATIVE
            else:
                found[known, column] = np.argsort(order)[index] / (len(order) - 1)
        return found

    def draws(self, count: int, generator: np.random.Generator) -> Rows:
        """Samples in which every domain is drawn independently."""
        return self._applying(self._scales.values(generator.random((count, len(self._paths)))))

    def near(self, centers: Rows, deviation: float, share: float, generator: np.random.Generator) -> Rows:
        """A sample near each row, in which a `share` of the intervals moved by a normal `deviation`, reflected at the
        ends."""
        intervals = self._scales.intervals
        drawn, chance = self._scales.values(generator.random(centers.shape)), generator.random(centers.shape)
        places = np.zeros(centers.shape)
        moves = generator.normal(0.0, deviation, (len(centers), len(intervals)))
        places[:, intervals] = np.abs(np.nan_to_num(self._scales.positions(centers), nan=CENTER) + moves)
        moved = self._scales.values(1 - np.abs(1 - places))
        rows = np.where((chance < share) | ~self._scales.contain(centers), moved, centers)
        for number in self._choices:
            index, known = self._index(centers[:, number], number)
            rows[:, number] = drawn[:, number]
            if (order := self._orders.get(number)) is not None:  # the next number below or above
                rank = np.argsort(order)[index]
                above = (rank == 0) | ((rank < len(order) - 1) & (generator.random(len(rank)) < 0.5))
                rows[known, number] = order[rank + np.where(above, 1, -1)]
            kept = known[chance[known, number] >= CHANGED_CHOICES]
            rows[kept, number] = centers[kept, number]
        return self._applying(np.where(np.isnan(centers), drawn, rows))

    def _index(self, values: Vector, number: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Of the values of a choice: the indices of the alternatives that there are, and where they are."""
        known = np.flatnonzero((values >= 0) & (values < self._scales.counts[number]))
        return values[known].astype(np.intp), known

    def _applying(self, rows: Rows) -> Rows:
        """The rows without the values that do not apply to them."""
        for number, needed in self._conditions:
            applies = np.all([rows[:, choice] == index for choice, index in needed], axis=0)
            rows[~applies, number] = math.nan
        return rows


class _Scales:
    """The scales of all domains at once, as `search_spaces.positions` has them. `intervals` are numbers of domains.

    `counts` are those of alternatives and of candidates, `whole` whether a value is a whole number.
    """

    def __init__(self, known: list[Domain]) -> None:
        self.intervals = np.array([number for number, one in enumerate(known) if isinstance(one, Interval)], np.intp)
        self.whole = [not isinstance(one, Interval) or one.integer for one in known]
        self.counts = np.array([_count(one) for one in known])
        self._is_log = np.array([isinstance(one, Interval) and one.log for one in known], bool)
        self._rounded = self._is_log & np.array(self.whole, bool)
        self._low = np.array([one.low if isinstance(one, Interval) else 0.0 for one in known])
        self._high = np.array([one.high if isinstance(one, Interval) else math.inf for one in known])
        self._step = np.array([(one.step or 1.0) if isinstance(one, Interval) else 1.0 for one in known])
        bounds = np.array([ends(one) if isinstance(one, Interval) else (0.0, 1.0) for one in known]).reshape(-1, 2)
        bounds[self._is_log] = np.log(bounds[self._is_log])
        self._start, self._width = bounds[:, 0], bounds[:, 1] - bounds[:, 0]
        #: Values with binary noise, which `Candidates` removes.
        self._quantized = {
            number: Candidates(one)
            for number, one in enumerate(known)
            if isinstance(one, Interval) and one.step is not None and not one.integer
        }

    def positions(self, rows: Rows) -> Rows:
        """Of the intervals: 0 at the low end, 1 at the high end. float64 [samples, intervals]."""
        given, is_log = rows[:, self.intervals], self._is_log[self.intervals]
        given[:, is_log] = np.log(np.maximum(given[:, is_log], sys.float_info.min))
        width = self._width[self.intervals]
        start = self._start[self.intervals]
        places: Rows = np.where(width > 0, (given - start) / np.where(width > 0, width, 1.0), given * 0.0)
        return places

    def values(self, positions: Rows) -> Rows:
        """The value of each domain at a position in [0, 1], or at the end that is nearest to it."""
        positions = np.clip(positions, 0.0, 1.0)
        cells = np.minimum(np.floor(positions * self.counts), self.counts - 1)
        found: Rows = self._start + positions * self._width
        found[:, self._is_log] = np.exp(found[:, self._is_log])
        found[:, self._rounded] = np.rint(found[:, self._rounded])
        found = np.where(self.counts > 0, self._low + cells * self._step, found)
        found = np.clip(found, self._low, self._high)
        for number, candidates in self._quantized.items():
            found[:, number] = [candidates[int(cell)] for cell in cells[:, number]]
        return found

    def contain(self, row: Vector) -> NDArray[np.bool_]:
        """Whether each value is between the ends of its domain."""
        return (row >= self._low) & (row <= self._high)


def _count(domain: Domain) -> int:
    """Of alternatives, or of candidates with equal shares; 0 where values have a scale."""
    if isinstance(domain, Choice):
        return len(domain.choice)
    if not isinstance(domain, Interval) or domain.step is None or domain.log:
        return 0
    return len(Candidates(domain))
