"""Ablation: which changes lead from one configuration to another, and what each of them adds (Fawcett and Hoos, 2016).

Greedily, the change that improves the result most is made first, so that a change that helps only together with
another one has its gain where the second is made. Pure functions of samples and of a function that rates them. It must
not know trials, files or models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.sampling import Sample

#: Results of samples, larger is better: float64 [repetitions, samples]. A repetition is one model of the results.
Rate = Callable[[Sequence[Sample]], NDArray[np.float64]]


@dataclass(frozen=True)
class Step:
    """The change of the domain at `path`, with what it adds to the result in each repetition, float64 [repetitions].

    `sample` is the configuration after it.
    """

    path: str
    gains: NDArray[np.float64]
    sample: Sample


def steps(start: Sample, end: Sample, rate: Rate) -> Iterator[Step]:
    """The changes from `start` to `end`, in the order in which they are made.

    Each raises the mean over repetitions most, of equal ones the first by path. A choice of another alternative brings
    the values of `end` within that alternative along.
    """
    left = sorted(path for path in start.keys() & end.keys() if start[path] != end[path])
    now, rated = start, rate([start])[:, 0]
    while left:
        samples = [changed(now, end, path) for path in left]
        ratings = rate(samples)
        chosen = int(ratings.mean(axis=0).argmax())
        yield Step(left.pop(chosen), ratings[:, chosen] - rated, samples[chosen])
        now, rated = samples[chosen], ratings[:, chosen]


def changed(sample: Sample, end: Sample, path: str) -> Sample:
    """`sample` with the value of `end` at a path, and with what is within the alternative that is chosen there."""
    inner = f"{path}["
    kept = {name: value for name, value in sample.items() if name != path and not name.startswith(inner)}
    return kept | {name: value for name, value in end.items() if name == path or name.startswith(inner)}
