"""Untried: which configurations of a search space no trial of an experiment has had.

Two samples that bind to the same configuration are one, also where a choice lists it twice. It must not know how a
searcher proposes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from hashlib import blake2b

from search_spaces.domains import Domain, Interval
from search_spaces.positions import drawn_at
from search_spaces.sampling import Sample, distinct_combinations, domains, draw_from, resolve
from search_spaces.spec import Spec

#: Random samples that are looked at before the configurations of a finite space are walked through.
DRAWS = 100


class Untried:
    def __init__(self, search_space: Spec) -> None:
        self._space = search_space
        self._tried: set[bytes] = set()
        self._finite = not any(isinstance(one, Interval) and one.step is None for _, one in domains(search_space))
        #: Those before the next one were tried, and stay so.
        self._walk: Iterator[dict[str, float]] = iter(distinct_combinations(search_space) if self._finite else ())

    def add(self, sample: Sample) -> None:
        """A trial has this sample. One that does not fit the space counts as no configuration of it."""
        try:
            self._tried.add(self._key(sample))
        except ValueError:
            return

    def __contains__(self, sample: Sample) -> bool:
        return self._key(sample) not in self._tried

    def draw(self, seed: str) -> dict[str, float] | None:
        """An untried sample: at random, or the first of a finite space; None where that has no more.

        A space with a continuous domain has no end; if it is nearly always drawn as it was tried, one is repeated.
        """
        generator = random.Random(seed)
        for _ in range(DRAWS):
            if (sample := draw_at_random(self._space, generator)) in self:
                return sample
        return next((one for one in self._walk if one in self), None) if self._finite else sample

    def _key(self, sample: Sample) -> bytes:
        """A digest: there may be 100,000 configurations, and one may have 50 KB of constants."""
        return blake2b(json.dumps(resolve(self._space, draw_from(sample))).encode(), digest_size=16).digest()


def draw_at_random(search_space: Spec, generator: random.Random) -> dict[str, float]:
    """A sample in which every domain is drawn independently."""
    sample: dict[str, float] = {}

    def draw(path: str, domain: Domain) -> float:
        sample[path] = drawn_at(domain, generator.random())
        return sample[path]

    resolve(search_space, draw)
    return sample
