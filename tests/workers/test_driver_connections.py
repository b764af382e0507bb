"""The driver's connections to the service and to MLflow end by a deadline if nothing comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from search_spaces.protocol import LaunchConfig, Phase
from tests.support.half_open import cut_off_address, silent_server
from tests.support.workers import OpenRecorder
from workers import heartbeat
from workers.fence import Fence
from workers.heartbeat import HeartbeatThread
from workers.tracking import repetition
from workers.tracking.connection import Connection, is_outage
from workers.tracking.mlflow_ids import MlflowIds

NOWHERE = MlflowIds(None, None, {})


@pytest.fixture
def heartbeat_to(
    launch: Callable[..., LaunchConfig], open_recorder: OpenRecorder, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], HeartbeatThread]]:
    monkeypatch.setattr(heartbeat, "TIMEOUT_S", 0.2)
    recorder = open_recorder()
    recorder.record_suggestion(0, {}, {"lr": 0.5})
    made: list[HeartbeatThread] = []

    def build(url: str) -> HeartbeatThread:
        made.append(HeartbeatThread(launch(service_url=url), Fence()))
        made[-1].report_trials(recorder, lambda: NOWHERE)
        return made[-1]

    yield build
    for one in made:
        one.close()


def test_a_service_that_never_answers_ends_no_driver_and_loses_no_change(
    heartbeat_to: Callable[[str], HeartbeatThread], service: Any
) -> None:
    with silent_server() as server:
        beat = heartbeat_to(server.url)
        assert not beat.send()
        assert server.attempts() == 1
        assert not beat.send_final(Phase.COMPLETED, "", None, patience_s=0.0)
        assert server.attempts() == 2
    with cut_off_address() as url:
        assert not heartbeat_to(url).send()
    assert heartbeat_to(f"http://127.0.0.1:{service.port}").send()
    assert service.told() == [0], "what the others could not report"


@pytest.fixture
def mlflow_at(launch: Callable[..., LaunchConfig], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Connection]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")  # of a caller's own; set again by the connection
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # whole seconds; a driver has 20
    monkeypatch.setattr(repetition, "PATIENCE_S", 0.0)
    return lambda url: Connection(launch(mlflow_tracking_uri=url))


@pytest.mark.parametrize(
    "ask",
    [
        lambda mlflow: mlflow.get_run("x"),
        lambda mlflow: mlflow.create_run("0"),
        lambda mlflow: mlflow.log_metric("x", "loss", 1.0),
    ],
)
def test_an_mlflow_that_never_answers_is_an_outage(
    mlflow_at: Callable[[str], Connection], ask: Callable[[Any], Any]
) -> None:
    with silent_server() as server:
        with pytest.raises(MlflowException) as lost:
            ask(mlflow_at(server.url).client())
        assert is_outage(lost.value)
        assert server.attempts() == 1


def test_an_mlflow_that_takes_no_connection_is_an_outage(mlflow_at: Callable[[str], Connection]) -> None:
    with cut_off_address() as url, pytest.raises(MlflowException) as lost:
        mlflow_at(url).client().get_run("x")
    assert is_outage(lost.value)


def test_an_upload_to_an_mlflow_that_never_answers_is_an_outage(
    mlflow_at: Callable[[str], Connection], tmp_path: Path
) -> None:
    from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository

    (tmp_path / "x.txt").write_text("x")
    with silent_server() as server:
        mlflow_at(server.url).client()  # sets the deadlines
        repository = MlflowArtifactsRepository(f"mlflow-artifacts://127.0.0.1:{server.port}/1/x", server.url)
        with pytest.raises(Exception, match=r"timed out|timeout") as lost:
            repository.log_artifact(str(tmp_path / "x.txt"))
        assert is_outage(lost.value)
        assert server.attempts() == 1
