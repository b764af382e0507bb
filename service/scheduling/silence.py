"""SilenceTimer: for how long each of several values has not changed, by the observer's monotonic clock.

Owns how the time is counted: only between two observations, and at most `longest_gap_s` of one gap, because an observer
that was suspended or had no database could not have seen a change. It uses no wall clock, so a clock that is set does
not matter. It must not know what the values mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping


class SilenceTimer:
    """Call `observe` every few seconds, more often than `longest_gap_s`."""

    def __init__(self, longest_gap_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._longest_gap_s = longest_gap_s
        self._monotonic = monotonic
        self._observed_at = monotonic()
        self._since: dict[Hashable, tuple[Hashable, float]] = {}

    def observe(self, tokens: Mapping[Hashable, Hashable]) -> dict[Hashable, float]:
        """The seconds for which each token has been the same; zero if it is new. Missing names are forgotten."""
        now = self._monotonic()
        passed_s = min(now - self._observed_at, self._longest_gap_s)
        self._observed_at = now
        known = self._since
        self._since = {
            name: (token, known[name][1] + passed_s if name in known and known[name][0] == token else 0.0)
            for name, token in tokens.items()
        }
        return {name: seconds for name, (_, seconds) in self._since.items()}
