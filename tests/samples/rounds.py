"""Rounds of a reconciler by a clock that is moved by hand."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from service.adapters.launcher import ClusterUnreachableError
from service.scheduling.reconciler import Reconciler

STEP_S = 2.0


class Clock:
    """A wall clock, and a monotonic one beside it that does not jump."""

    def __init__(self) -> None:
        self.now, self.ticks = datetime.now(UTC), 0.0

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.ticks

    def pass_s(self, seconds: float) -> None:
        self.ticks += seconds
        self.jump_s(seconds)

    def jump_s(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def watch(reconciler: Reconciler, clock: Clock, seconds: float) -> None:
    """Rounds, as the thread makes them, for so long."""
    for _ in range(math.ceil(seconds / STEP_S)):
        clock.pass_s(STEP_S)
        reconciler.reconcile_once()


def refuse(*_: Any) -> Any:
    raise ClusterUnreachableError("500 Internal Server Error")
