"""The connection: what MLflow's errors mean, and that nothing passes once it is closed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException, RestException

from search_spaces.protocol import LaunchConfig
from tests.support.handlers import QuietHandler, handling
from tests.support.hostile_servers import slow_server
from workers.tracking import repetition
from workers.tracking.connection import Connection, SupersededError, is_outage, is_permanent


def test_an_unreachable_server_is_distinguished_from_one_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # else MLflow's client waits for minutes
    nowhere = MlflowClient("http://127.0.0.1:9")
    with pytest.raises(MlflowException) as unreached:
        nowhere.get_run("x")
    assert is_outage(unreached.value)
    said = {"INTERNAL_ERROR": True, "TEMPORARILY_UNAVAILABLE": True, "PERMISSION_DENIED": False}
    answers = {code: RestException({"error_code": code, "message": "m"}) for code in said}
    assert {code: is_outage(answer) for code, answer in answers.items()} == said
    lacking = RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Workspace 'vision' not found"})
    assert (is_outage(lacking), is_permanent(lacking)) == (True, False), "the service makes it"
    assert is_permanent(RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run 'x' not found"}))
    assert is_outage(ConnectionResetError())
    for status, passes in {500: True, 503: True, 429: True, 403: False, 413: False}.items():
        upload = requests.Response()
        upload.status_code = status
        assert is_outage(requests.HTTPError(response=upload)) is passes, status
    assert not is_outage(TypeError("a defect of our own"))


def test_the_client_itself_repeats_no_creation(
    launch: Callable[..., LaunchConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")  # of a caller's own
    asked: list[str] = []

    class Silent(QuietHandler):
        def respond(self) -> None:
            asked.append(self.path.rpartition("mlflow/")[2])

    with handling(Silent) as address, pytest.raises(MlflowException) as lost:
        Connection(launch(mlflow_tracking_uri=address)).client().create_run("0")
    assert is_outage(lost.value)
    assert asked == ["runs/create"]


@pytest.mark.parametrize("in_headers", [False, True])
@pytest.mark.parametrize("request_name", ["create_run", "get_run"])
def test_an_answer_that_trickles_in_is_an_outage_at_the_deadline(
    launch: Callable[..., LaunchConfig], monkeypatch: pytest.MonkeyPatch, request_name: str, in_headers: bool
) -> None:
    """Each byte arrives in time, so that MLflow's own timeout, that of a read, never passes."""
    monkeypatch.setattr(repetition, "REQUEST_S", 0.3)
    monkeypatch.setattr(repetition, "PATIENCE_S", 0.0)
    with slow_server(in_headers) as slow, pytest.raises(TimeoutError, match="not complete") as late:
        getattr(Connection(launch(mlflow_tracking_uri=slow.url)).client(), request_name)("0")
    assert is_outage(late.value)
    assert slow.attempts == 1


def test_an_uninterrupted_block_is_finished_before_closing_or_not_entered(launch: Callable[..., LaunchConfig]) -> None:
    superseded = False
    one, other = Connection(launch()), Connection(launch(), lambda: superseded)
    with one.uninterrupted(), other.uninterrupted():
        assert one.client().tracking_uri == launch().mlflow_tracking_uri
    one.close()
    superseded = True
    for connection in (one, other):
        with pytest.raises(SupersededError):
            connection.client()
        with pytest.raises(SupersededError), connection.uninterrupted():
            raise AssertionError("done all the same")
