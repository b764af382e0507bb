"""Silence: how long ago something was, as far as this service can tell.

Silence counts only while the service could hear: from its start, from the last time that it slept or its database
was away, and from the last jump of its wall clock, which it finds by comparing it with the monotonic one. It must
not know what is listened to.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

JUMP_S = 5.0  # a wall clock that is slewed stays far below this between two rounds

log = logging.getLogger(__name__)


def utc_now() -> datetime:
    return datetime.now(UTC)


class Silence:
    """Measures by `clock`, for as long as `monotonic` (seconds, from anywhere) agrees with it."""

    def __init__(
        self, clock: Callable[[], datetime] = utc_now, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._looked_at, self._ticks = clock(), monotonic()
        self._counted_from = self._looked_at

    def check_clock(self) -> None:
        """To be called every few seconds: after a jump silence counts anew."""
        now, ticks = self._clock(), self._monotonic()
        jump_s = (now - self._looked_at).total_seconds() - (ticks - self._ticks)
        self._looked_at, self._ticks = now, ticks
        if abs(jump_s) > JUMP_S:
            self.count_anew(f"the clock jumped by {jump_s:+.0f} s")

    def count_anew(self, why: str) -> None:
        """Nobody could be heard until now."""
        log.warning("%s: silence is counted from now on", why)
        self._counted_from = self._clock()

    def seconds(self, since: datetime) -> float:
        """Seconds since a moment, or since silence counts; the latter for a moment that a clock set back made later."""
        now = self._clock()
        start = max(since, self._counted_from) if since <= now else self._counted_from
        return (now - start).total_seconds()
