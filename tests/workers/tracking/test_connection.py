"""The connection: what MLflow's errors mean, and that nothing passes once it is closed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException

from search_spaces.protocol import LaunchConfig
from workers.tracking.connection import Connection, SupersededError, is_outage


def test_an_unreachable_server_is_distinguished_from_one_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # else MLflow's client waits for minutes
    nowhere = MlflowClient("http://127.0.0.1:9")
    with pytest.raises(MlflowException) as unreached:
        nowhere.get_run("x")
    assert is_outage(unreached.value)
    said = {"INTERNAL_ERROR": True, "TEMPORARILY_UNAVAILABLE": True, "PERMISSION_DENIED": False}
    answers = {code: RestException({"error_code": code, "message": "m"}) for code in said}
    assert {code: is_outage(answer) for code, answer in answers.items()} == said
    assert is_outage(ConnectionResetError())
    assert not is_outage(TypeError("a defect of our own"))


def test_the_client_itself_repeats_no_creation(
    launch: Callable[..., LaunchConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")  # of a caller's own
    asked: list[str] = []

    class Silent(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path.rpartition("mlflow/")[2])

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    connection = Connection(launch(mlflow_tracking_uri=f"http://127.0.0.1:{server.server_port}"))
    with pytest.raises(MlflowException) as lost:
        connection.client().create_run("0")
    server.shutdown()
    server.server_close()
    assert is_outage(lost.value)
    assert asked == ["runs/create"]


def test_an_uninterrupted_block_is_finished_before_closing_or_not_entered(launch: Callable[..., LaunchConfig]) -> None:
    superseded = False
    one, other = Connection(launch()), Connection(launch(), lambda: superseded)
    with one.uninterrupted(), other.uninterrupted():
        assert isinstance(one.client(), MlflowClient)
    one.close()
    superseded = True
    for connection in (one, other):
        with pytest.raises(SupersededError):
            connection.client()
        with pytest.raises(SupersededError), connection.uninterrupted():
            raise AssertionError("done all the same")
