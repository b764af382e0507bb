"""LoopClock: the seconds in which this replica's event loop ran, so that it could receive a heartbeat.

Owns how they are counted. While the loop is blocked, the reconciler's thread may continue: no driver is silent then.
It must not know what the loop serves, or what the seconds are used for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

TICK_S = 0.25  # a silence is found so much later
#: What one tick counts at most: a loop that is busy ticks late, and one that was blocked received nothing.
LONGEST_TICK_S = 1.0


class LoopClock:
    """Call it for the seconds so far, from any thread. `run` must run in the event loop."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._ticked_at = monotonic()
        self._seconds = 0.0

    def __call__(self) -> float:
        return self._seconds

    async def run(self) -> None:
        while True:
            now = self._monotonic()
            self._seconds += min(now - self._ticked_at, LONGEST_TICK_S)
            self._ticked_at = now
            await asyncio.sleep(TICK_S)
