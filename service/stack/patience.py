"""Patience: how long the start of a process may take.

Owns what counts as progress, and the limits. A busy machine makes every start slow, so a start may take long as long as
something progresses. It must not know what is started.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

QUIET_S = 90.0  # without progress; a slow disk or a busy machine can hold everything up for a minute
LONGEST_S = 1200.0  # in total: some processes use the CPU for ever without getting ready
SAMPLE_S = 2.0  # between two observations of the processes
#: CPU time that counts as progress. An import of a large package takes seconds; a process that waits takes less.
MIN_CPU_S = 1.0


@dataclass(frozen=True)
class Activity:
    """What a process and its descendants have done so far."""

    cpu_s: float
    processes: frozenset[int]
    log_bytes: int


class Patience:
    """Call `exhausted` regularly."""

    def __init__(self, observe: Callable[[], Activity], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._observe = observe
        self._monotonic = monotonic
        self._began = self._progressed = self._sampled = monotonic()
        self._last = observe()
        self._answer = ""

    def exhausted(self, answer: str) -> str | None:
        """Why there is no point in waiting longer; None if there is. `answer` is the newest to the question whether
        the process is ready: another one is progress."""
        now = self._monotonic()
        if now - self._sampled >= SAMPLE_S:
            self._sampled = now
            new = self._observe()
            if answer != self._answer or _has_progressed(self._last, new):
                self._progressed, self._last, self._answer = now, new, answer
        if now - self._progressed > QUIET_S:
            return f"without progress for {now - self._progressed:.0f} s"
        if now - self._began > LONGEST_S:
            return f"not ready within {now - self._began:.0f} s"
        return None


def _has_progressed(before: Activity, after: Activity) -> bool:
    return (
        after.processes != before.processes
        or after.log_bytes != before.log_bytes
        or abs(after.cpu_s - before.cpu_s) >= MIN_CPU_S
    )
