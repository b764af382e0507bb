"""Results: the only room that reads MLflow: a run's curves, and whether MLflow answers at all.

It speaks MLflow's REST interface itself: one small request for a metric needs none of the client's imports.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx

from search_spaces.protocol import METRICS, SIGNALS
from service.errors import Unavailable
from service.schemas import Point
from service.settings import Settings

PAGE = 25_000
INFINITY = sys.float_info.max  # as which MLflow's databases keep it


class Results:
    """Reads over one connection pool. Close it when done."""

    def __init__(self, settings: Settings) -> None:
        auth = None
        if settings.mlflow_username is not None:
            auth = httpx.BasicAuth(settings.mlflow_username, settings.mlflow_password or "")
        self._uri = settings.mlflow_tracking_uri
        self._public = settings.mlflow_public_url.rstrip("/")
        self._client = httpx.Client(timeout=settings.mlflow_timeout_s, auth=auth)
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="results")

    def run_url(self, experiment_id: str | None, run_id: str | None) -> str | None:
        """A run's page in MLflow, for a person."""
        if not (self._public and experiment_id and run_id):
            return None
        return f"{self._public}/#/experiments/{experiment_id}/runs/{run_id}"

    def curves(self, run_id: str, names: Iterable[str] = METRICS + SIGNALS) -> dict[str, list[Point]]:
        """Points of each metric that has any, by step; none for a run that MLflow does not know. Raises Unavailable."""
        names = list(names)
        histories = self._pool.map(lambda name: self._history(run_id, name), names)
        return {name: points for name, points in zip(names, histories, strict=True) if points}

    def why_away(self) -> str:
        """What keeps MLflow from answering; empty when it answers."""
        try:
            self._request("/health")
        except Unavailable as error:
            return error.detail
        return ""

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._client.close()

    def _history(self, run_id: str, name: str) -> list[Point]:
        points: list[Point] = []
        query = {"run_id": run_id, "metric_key": name, "max_results": str(PAGE)}
        while True:
            answer = self._request("/api/2.0/mlflow/metrics/get-history", query).json()
            points += map(_point, answer.get("metrics", ()))
            if not (token := answer.get("next_page_token")):
                return sorted(points, key=lambda point: (point.step, point.timestamp))
            query["page_token"] = token

    def _request(self, path: str, query: dict[str, str] | None = None) -> httpx.Response:
        if not self._uri.startswith("http"):
            raise Unavailable(f"curves are read from an MLflow server; {self._uri} is none")
        try:
            response = self._client.get(self._uri.rstrip("/") + path, params=query)
        except httpx.HTTPError as error:
            raise Unavailable(f"MLflow at {self._uri} does not answer: {error or type(error).__name__}") from error
        if response.status_code != 200:
            raise Unavailable(f"MLflow at {self._uri} answers {response.status_code}: {response.text[:200]}")
        return response


def _point(metric: dict[str, Any]) -> Point:
    value = metric.get("value")
    number = float(value) if value is not None else float("nan")
    return Point(
        step=int(metric.get("step", 0)),
        value=number if abs(number) < INFINITY else None,
        timestamp=datetime.fromtimestamp(int(metric["timestamp"]) / 1000, UTC),
    )
