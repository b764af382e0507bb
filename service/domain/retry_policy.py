"""How often and how soon a lost driver is replaced."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

LONGEST_WAIT_S = 300.0
MOST_DOUBLINGS = 16  # more would exceed what a timedelta holds


@dataclass(frozen=True)
class Retries:
    """How often and how soon a lost driver is replaced."""

    most: int
    backoff_s: float

    @property
    def longest(self) -> timedelta:
        return timedelta(seconds=max(self.backoff_s, LONGEST_WAIT_S))

    def wait(self, failures: int) -> timedelta:
        """After so many in a row; twice as long after each, up to the longest."""
        doublings = min(max(0, failures - 1), MOST_DOUBLINGS)
        return min(self.longest, timedelta(seconds=self.backoff_s * 2.0**doublings))
