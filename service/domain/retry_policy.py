"""How often and how soon a lost driver is replaced."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

MAX_WAIT_S = 300.0
MAX_DOUBLINGS = 16  # more would exceed what a timedelta holds


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how soon a lost driver is replaced."""

    max_attempts: int
    backoff_s: float

    @property
    def max_wait(self) -> timedelta:
        return timedelta(seconds=max(self.backoff_s, MAX_WAIT_S))

    def wait_after(self, failures: int) -> timedelta:
        """After so many in a row; twice as long after each, up to `max_wait`."""
        doublings = min(max(0, failures - 1), MAX_DOUBLINGS)
        return min(self.max_wait, timedelta(seconds=self.backoff_s * 2.0**doublings))
