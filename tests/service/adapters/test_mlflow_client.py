"""The MLflow client against a small server of MLflow's REST interface. Its deletions: cleanup/test_worker.py."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from service.adapters.mlflow_client import TRIALS_AT_ONCE, MlflowClient
from service.contract.errors import UnavailableError
from service.settings import Settings
from tests.support.handlers import QuietHandler, handling

HISTORY = [
    {"step": step, "value": value, "timestamp": 1_700_000_000_000 + step} for step, value in enumerate([3, 2, 1], 1)
]
ODD = [
    {"step": 1, "value": "NaN", "timestamp": 1_700_000_000_000},
    {"step": 2, "value": sys.float_info.max, "timestamp": 1_700_000_000_000},
    {"step": 3, "timestamp": 1_700_000_000_000},
]


class Tracking(QuietHandler):
    """Two metrics. The first has one point per page, the newest first."""

    def respond(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if self.headers.get("Authorization") == "Basic d3Jvbmc6":
            return self._answer(401, {})
        if url.path == "/health":
            return self._answer(200, {})
        if url.path.startswith("/api/") and self.headers["Host"].startswith("localhost"):
            return self._answer(403, {})
        if url.path.endswith("/experiments/search"):
            return self._answer(200, {})
        if query["run_id"] == "odd":
            return self.answer(200, b"<html>login\0</html>")
        if query["metric_key"] == "train_loss":
            page = int(query.get("page_token", "0"))
            more = {"next_page_token": str(page + 1)} if page < 2 else {}
            return self._answer(200, {"metrics": [HISTORY[2 - page]], **more})
        return self._answer(200, {"metrics": ODD} if query["metric_key"] == "lr" else {})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        self.answer(status, json.dumps(document).encode())


@pytest.fixture
def uri() -> Iterator[str]:
    with handling(Tracking) as address:
        yield address


Open = Callable[..., MlflowClient]


@pytest.fixture
def open_client(tmp_path: Path, uri: str) -> Iterator[Open]:
    opened: list[MlflowClient] = []

    def open_client(uri: str = uri, **more: Any) -> MlflowClient:
        opened.append(MlflowClient(Settings(home=tmp_path, mlflow_tracking_uri=uri, **more)))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()


def test_pages_are_joined_and_sorted_and_empty_metrics_are_left_out(open_client: Open) -> None:
    curves = open_client().curves("r1")
    assert {name: [(point.step, point.value) for point in points] for name, points in curves.items()} == {
        "train_loss": [(1, 3.0), (2, 2.0), (3, 1.0)],
        "lr": [(1, None), (2, None), (3, None)],
    }


def test_a_server_that_answers_is_available(open_client: Open) -> None:
    open_client().ping()


def test_wrong_credentials_are_an_error(open_client: Open) -> None:
    client = open_client(mlflow_username="wrong")
    for request in (client.ping, lambda: client.curves("r1")):
        with pytest.raises(UnavailableError, match="answers 401"):
            request()


def test_a_server_that_refuses_its_own_host_name_is_unavailable(open_client: Open, uri: str) -> None:
    """MLflow does so for names that are missing in its `--allowed-hosts`, while its /health is fine."""
    client = open_client(uri.replace("127.0.0.1", "localhost"))
    with pytest.raises(UnavailableError, match="answers 403"):
        client.ping()


def test_an_answer_that_is_not_of_mlflow_is_an_error(open_client: Open) -> None:
    with pytest.raises(UnavailableError, match="did not answer as MLflow does: <html>login"):
        open_client().curves("odd")


def test_the_page_of_a_run_is_below_the_public_url(open_client: Open) -> None:
    client = open_client(mlflow_public_url="https://ml.example/")
    assert client.run_url("1", "r1") == "https://ml.example/#/experiments/1/runs/r1"
    assert client.run_url("1", None) is None
    assert client.run_url(None, "r1") is None


def test_curves_of_an_mlflow_that_hangs_hold_few_threads_for_a_bounded_time(tmp_path: Path) -> None:
    """It takes connections and answers none of them."""
    with socket.create_server(("127.0.0.1", 0), backlog=500) as frozen:
        uri = f"http://127.0.0.1:{frozen.getsockname()[1]}"
        client = MlflowClient(Settings(home=tmp_path, mlflow_tracking_uri=uri, mlflow_timeout_s=5))
        refusals: list[tuple[str, str | None]] = []

        def ask() -> None:
            with pytest.raises(UnavailableError) as refused:
                client.curves("a" * 32)
            refusals.append((refused.value.detail.partition(" ")[2][:20], refused.value.headers.get("Retry-After")))

        people = [threading.Thread(target=ask) for _ in range(4 * TRIALS_AT_ONCE)]
        for one in people:
            one.start()
        for one in people:
            one.join()
        client.close()
    counts = Counter(refusals)
    assert counts["has not yet answered", "2"] == 3 * TRIALS_AT_ONCE
    assert sum(counts.values()) == 4 * TRIALS_AT_ONCE
