"""ClusterCache: the last view of the cluster, so that no request has to wait for Ray.

Owns the last snapshot and when Ray last answered. The reconciler writes it; all others read it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from service.contract.errors import SEE_LOG
from service.domain.cluster import Cluster

#: What everybody may know of an outage.
UNREACHABLE = f"Ray does not answer; {SEE_LOG}"


@dataclass(frozen=True)
class ClusterSnapshot:
    """The cluster as it was seen once. `cluster` is None while Ray does not answer; `why` then says so to everybody."""

    cluster: Cluster | None
    why: str
    at: datetime


class ClusterCache:
    """Holds the latest `ClusterSnapshot`. Replacing one reference needs no lock."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._snapshot = self._first = ClusterSnapshot(None, "the service has not contacted Ray yet", datetime.now(UTC))
        self._error = ""
        self._monotonic = monotonic
        self._seen_at = monotonic()

    @property
    def snapshot(self) -> ClusterSnapshot:
        return self._snapshot

    @property
    def cluster(self) -> Cluster | None:
        return self._snapshot.cluster

    @property
    def unreachable_reason(self) -> str:
        """That Ray does not answer; empty while it does, and if it has not been asked yet."""
        return "" if self._snapshot is self._first else self._snapshot.why

    @property
    def error(self) -> str:
        """The last error of an outage, for the log only."""
        return self._error

    @property
    def unreachable_s(self) -> float:
        """Seconds since Ray last answered, or since the service started."""
        return self._monotonic() - self._seen_at

    def record(self, cluster: Cluster) -> None:
        self._seen_at = self._monotonic()
        self._error, self._snapshot = "", ClusterSnapshot(cluster, "", datetime.now(UTC))

    def record_failure(self, error: str) -> None:
        self._error, self._snapshot = error, ClusterSnapshot(None, UNREACHABLE, datetime.now(UTC))
