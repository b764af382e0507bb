"""Driver places: how many more drivers each pool may start.

Drivers of all pools count together, because they are elsewhere than their trials; a pool may have places that are kept
for it. It must not know how slots are divided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping


class DriverPlaces:
    """`most`: number of drivers of all pools. `least`: for each pool, the number of those that are kept for it.
    `running` has the pool of each driver. Where more is kept than there is, a pool that has less than is kept for it
    may take what is free."""

    def __init__(self, most: int, least: Mapping[str, int], running: Iterable[str]) -> None:
        self._most, self._least, self._running = most, least, Counter(running)

    def kept(self, pool: str) -> int:
        """The free places that are kept for other pools."""
        return sum(max(0, least - self._running[other]) for other, least in self._least.items() if other != pool)

    def free(self, pool: str) -> int:
        """How many more drivers may start in a pool."""
        free = max(0, self._most - self._running.total())
        own = self._least[pool] - self._running[pool]
        return min(free, max(0, own, free - self.kept(pool)))

    def take(self, pool: str) -> None:
        """A driver starts."""
        self._running[pool] += 1
