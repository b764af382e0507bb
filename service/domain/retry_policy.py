"""Retry policy: how often and how soon a lost driver is replaced."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

#: No wait between two attempts is longer, unless the setting for the first one already is.
MAX_WAIT_S = 300.0
#: Doubling the wait more often than this would exceed what a timedelta holds.
MAX_DOUBLINGS = 16


@dataclass(frozen=True)
class RetryPolicy:
    """How many attempts in a row may fail, and how long to wait after each."""

    max_attempts: int
    backoff_s: float

    @property
    def max_wait(self) -> timedelta:
        return timedelta(seconds=max(self.backoff_s, MAX_WAIT_S))

    def wait_after(self, failures: int) -> timedelta:
        """The wait after this many failures in a row: `backoff_s`, doubled after each further one, up to `max_wait`."""
        doublings = min(max(0, failures - 1), MAX_DOUBLINGS)
        return min(self.max_wait, timedelta(seconds=self.backoff_s * 2.0**doublings))


@dataclass(frozen=True)
class Replacement:
    """When an attempt changed state, and the policy under which another one may replace it."""

    now: datetime
    retries: RetryPolicy
