"""A clock that a test moves by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class Clock:
    """Wall time, and beside it monotonic seconds, which do not jump when somebody sets the wall clock."""

    def __init__(self) -> None:
        self.now, self.seconds = datetime.now(UTC), 100.0

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.seconds += seconds
        self.set_forward(seconds)

    def set_forward(self, seconds: float) -> None:
        """Set the wall clock; the monotonic one stays."""
        self.now += timedelta(seconds=seconds)
