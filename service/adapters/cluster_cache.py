"""ClusterWatch: the last view of the cluster, so that no request has to wait for Ray.

The reconciler writes it, everybody else reads it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from service.domain.cluster import Cluster


@dataclass(frozen=True)
class Sight:
    """One look. `cluster` is None while Ray does not answer; `why` then says what happened instead."""

    cluster: Cluster | None
    why: str
    at: datetime


class ClusterWatch:
    """Holds the latest `Sight`; replacing one reference needs no lock."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._sight = self._first = Sight(None, "not asked yet", datetime.now(UTC))
        self._monotonic = monotonic
        self._seen_at = monotonic()

    @property
    def sight(self) -> Sight:
        return self._sight

    @property
    def cluster(self) -> Cluster | None:
        return self._sight.cluster

    @property
    def away(self) -> str:
        """Why Ray does not answer; empty while it does, and where nobody has asked it yet."""
        return "" if self._sight is self._first else self._sight.why

    @property
    def away_s(self) -> float:
        """Seconds since Ray answered last, or since the service was started."""
        return self._monotonic() - self._seen_at

    def saw(self, cluster: Cluster) -> None:
        self._seen_at = self._monotonic()
        self._sight = Sight(cluster, "", datetime.now(UTC))

    def missed(self, why: str) -> None:
        self._sight = Sight(None, why, datetime.now(UTC))
