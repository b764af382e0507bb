"""Measurements: what this replica has measured of its own work since it started.

Owns the instruments of these metrics, in one registry. Every label has a closed set of values. It must not know who
measures, nor how metrics are served; what the database knows is in `service.domain.census`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from service.contract.states import LossCause

#: In seconds. Most requests take milliseconds; a probe waits half a second, and a proxy ends a request after 60 s.
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: In seconds. A pass without launches takes milliseconds; a launch waits for Ray, up to its timeout.
ROUND_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
#: For a method or a route that is not one of the service's: clients may send any text.
OTHER = "other"
#: In place of a status: the client left before the response began.
ABANDONED = "abandoned"
#: A backlog is forgotten this long after it was reported: the driver ended, or another replica hears it now.
BACKLOG_KEPT_S = 60.0


class Measurements:
    """May be used from several threads. `lease_held`: whether this replica holds the lease of the queue."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Histogram(
            "rung_request_seconds",
            "Time to answer a request, from its headers to the end of the response.",
            ["method", "route", "status"],
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self._rounds = Histogram(
            "rung_reconcile_seconds",
            "Time of a pass of the reconciler that did not fail.",
            buckets=ROUND_BUCKETS,
            registry=self.registry,
        )
        self._failed_rounds = Counter(
            "rung_reconcile_failures", "Passes of the reconciler that an error ended.", registry=self.registry
        )
        self._losses = Counter(
            "rung_attempts_lost", "Attempts that were lost, by cause.", ["cause"], registry=self.registry
        )
        for cause in LossCause:  # a first loss must be an increase
            self._losses.labels(cause)
        self._round_ended_at: float | None = None
        self._backlogs: dict[str, tuple[float, float]] = {}
        self.lease_held = False

    def count_request(self, method: str, route: str, status: str, seconds: float) -> None:
        """`route` is the template of a path, or OTHER; `status` an HTTP status, or ABANDONED."""
        self._requests.labels(method if method in METHODS else OTHER, route, status).observe(seconds)

    @contextmanager
    def round(self) -> Iterator[None]:
        """Measure a pass of the reconciler. After an error it is not known who holds the lease."""
        began = self._monotonic()
        try:
            yield
        except BaseException:
            self.lease_held = False
            self._failed_rounds.inc()
            raise
        self._round_ended_at = self._monotonic()
        self._rounds.observe(self._round_ended_at - began)

    @property
    def round_age_s(self) -> float | None:
        """Seconds since the end of the last pass that did not fail; None before the first."""
        return None if self._round_ended_at is None else self._monotonic() - self._round_ended_at

    def count_loss(self, cause: LossCause) -> None:
        self._losses.labels(cause).inc()

    def report_backlog(self, attempt_id: str, behind_s: float) -> None:
        """For how long MLflow has lacked events of an attempt's experiment; 0 if it has all."""
        now = self._monotonic()
        kept = {one: found for one, found in self._backlogs.items() if now - found[1] < BACKLOG_KEPT_S}
        kept.pop(attempt_id, None)
        self._backlogs = kept | ({attempt_id: (behind_s, now)} if behind_s else {})

    def backlogs_s(self) -> list[float]:
        """For how long MLflow has lacked events, of each experiment of which it does."""
        now = self._monotonic()
        return [behind_s for behind_s, at in self._backlogs.values() if now - at < BACKLOG_KEPT_S]
