"""SilenceTimer: for how long somebody has said nothing new, by the clock of the one who listens.

Whoever listens looks again and again at the last word of each. Only the time between two looks counts, by a
monotonic clock, and of one gap no more than `longest_gap_s`: a listener that slept, was stopped or had no database
could not hear, and no wall clock is asked, neither its own nor that of whoever wrote the words down. It must not
know what is listened to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping


class SilenceTimer:
    """`look` is to be called every few seconds, more often than `longest_gap_s`."""

    def __init__(self, longest_gap_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._longest_gap_s = longest_gap_s
        self._monotonic = monotonic
        self._looked_at = monotonic()
        self._since: dict[str, tuple[Hashable, float]] = {}

    def observe(self, words: Mapping[str, Hashable]) -> dict[str, float]:
        """Seconds for which the last word of each has been the same; zero at the first look at it.

        Who is not among them is forgotten.
        """
        now = self._monotonic()
        passed_s = min(now - self._looked_at, self._longest_gap_s)
        self._looked_at = now
        known = self._since
        self._since = {
            who: (word, known[who][1] + passed_s if who in known and known[who][0] == word else 0.0)
            for who, word in words.items()
        }
        return {who: seconds for who, (_, seconds) in self._since.items()}
