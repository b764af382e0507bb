"""Curves as MLflow's REST interface tells them, page by page; a small server of that interface stands in."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from service.adapters.mlflow_client import MlflowClient
from service.contract.errors import UnavailableError
from service.settings import Settings

HISTORY = [
    {"step": step, "value": value, "timestamp": 1_700_000_000_000 + step} for step, value in enumerate([3, 2, 1], 1)
]
ODD = [
    {"step": 1, "value": "NaN", "timestamp": 1_700_000_000_000},
    {"step": 2, "value": sys.float_info.max, "timestamp": 1_700_000_000_000},
    {"step": 3, "timestamp": 1_700_000_000_000},
]


class Tracking(BaseHTTPRequestHandler):
    """Two metrics; the first comes a point a page, newest first."""

    def do_GET(self) -> None:
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
            return self._send(200, b"<html>login\0</html>")
        if query["metric_key"] == "train_loss":
            page = int(query.get("page_token", "0"))
            more = {"next_page_token": str(page + 1)} if page < 2 else {}
            return self._answer(200, {"metrics": [HISTORY[2 - page]], **more})
        return self._answer(200, {"metrics": ODD} if query["metric_key"] == "lr" else {})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        self._send(status, json.dumps(document).encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def uri() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Tracking) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def results(tmp_path: Path, uri: str, **more: Any) -> MlflowClient:
    return MlflowClient(Settings(home=tmp_path, mlflow_tracking_uri=uri, **more))


def test_pages_are_joined_and_sorted_and_empty_metrics_left_out(tmp_path: Path, uri: str) -> None:
    reader = results(tmp_path, uri)
    curves = reader.curves("r1")
    assert {name: [(point.step, point.value) for point in points] for name, points in curves.items()} == {
        "train_loss": [(1, 3.0), (2, 2.0), (3, 1.0)],
        "lr": [(1, None), (2, None), (3, None)],
    }
    assert reader.unavailable_reason() == ""
    reader.close()


def test_a_refusal_is_told(tmp_path: Path, uri: str) -> None:
    reader = results(tmp_path, uri, mlflow_username="wrong")
    assert "answers 401" in reader.unavailable_reason()
    with pytest.raises(UnavailableError, match="answers 401"):
        reader.curves("r1")
    reader.close()


def test_a_server_that_refuses_its_own_name_is_away(tmp_path: Path, uri: str) -> None:
    """As MLflow does for names that its `--allowed-hosts` lacks, while its health is fine."""
    reader = results(tmp_path, uri.replace("127.0.0.1", "localhost"))
    assert "answers 403" in reader.unavailable_reason()
    reader.close()


def test_nobody_waits_for_a_server_that_does_not_answer(tmp_path: Path) -> None:
    """A probe of readiness gives up after a second; each request to MLflow may take an hour here."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        reader = results(tmp_path, f"http://127.0.0.1:{deaf.getsockname()[1]}", mlflow_timeout_s=3600)
        said = [reader.unavailable_reason() for _ in range(3)]
        asked, _ = deaf.accept()
        deaf.settimeout(0)
        with pytest.raises(BlockingIOError):
            deaf.accept()  # one question is enough
    asked.close()
    assert all("does not answer within 0.5 s" in why for why in said)
    reader.close()


def test_what_does_not_answer_as_mlflow_does_is_away(tmp_path: Path, uri: str) -> None:
    reader = results(tmp_path, uri)
    with pytest.raises(UnavailableError, match="does not answer as MLflow does: <html>login"):
        reader.curves("odd")
    reader.close()


def test_addresses_for_people(tmp_path: Path, uri: str) -> None:
    reader = results(tmp_path, uri, mlflow_public_url="https://ml.example/")
    assert reader.run_url("1", "r1") == "https://ml.example/#/experiments/1/runs/r1"
    assert reader.run_url("1", None) is None
    reader.close()
