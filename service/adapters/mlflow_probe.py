"""MlflowProbe: whether MLflow answers, known within half a second.

Owns the thread that waits for a slow MLflow, so that nobody else has to.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor

from service.adapters.mlflow_client import MlflowClient
from service.contract.errors import UnavailableError

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 0.5  # readiness probes, which call this, often wait only one second for their own answer


class MlflowProbe:
    """Pings MLflow on demand, one request at a time. Close it when done."""

    def __init__(self, mlflow: MlflowClient) -> None:
        self._mlflow = mlflow
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mlflow-probe")
        self._pending: Future[str] | None = None
        self._logged = ""

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def unavailable_reason(self) -> str:
        """Why MLflow does not answer; empty when it answers. Returns within PROBE_TIMEOUT_S."""
        pending = self._pending
        if pending is None or pending.done():
            pending = self._pending = self._pool.submit(self._ask)
        try:
            return pending.result(PROBE_TIMEOUT_S)
        except TimeoutError:
            return f"MLflow at {self._mlflow.uri} did not answer within {PROBE_TIMEOUT_S:g} s"

    def _ask(self) -> str:
        reason = ""
        try:
            self._mlflow.ping()
        except UnavailableError as error:
            reason = error.detail
        if reason and reason != self._logged:
            log.warning("%s", reason)
        self._logged = reason
        return reason
