"""What the tests of the driver share: journals that are closed again, a small experiment, its launch."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from search_spaces.early_stopping.base import EarlyStoppingSpec
from search_spaces.objective import Objective
from search_spaces.storage.folder import FolderStorage
from tests.support.workers import (
    BuildLaunch,
    BuildSpec,
    HeartbeatService,
    OpenRecorder,
    Stopwatch,
    experiment_spec,
    launch_config,
)
from workers.state.recorder import Recorder

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tests.support.attempts import Attempted, ScriptedEvaluation, ScriptedProbe, Trials
    from tests.support.searches import Search


@pytest.fixture
def service() -> Iterator[HeartbeatService]:
    running = HeartbeatService()
    yield running
    running.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.fixture
def stopwatch() -> Stopwatch:
    """What the journals of `open_recorder` measure held slots with."""
    return Stopwatch()


@pytest.fixture
def open_recorder(tmp_path: Path, stopwatch: Stopwatch) -> Iterator[OpenRecorder]:
    """`open_recorder(attempt)`: the journal in `tmp_path`, opened at second 1000 * attempt."""
    opened: list[Recorder] = []

    def open_(attempt: int = 1, objective: Objective | None = None) -> Recorder:
        journal = FolderStorage(tmp_path).journal
        opened.append(Recorder(journal, objective or Objective(), attempt, lambda: 1000.0 * attempt, stopwatch))
        return opened[-1]

    yield open_
    for recorder in opened:
        recorder.close()


@pytest.fixture
def experiment() -> BuildSpec:
    return experiment_spec


@pytest.fixture
def search(tmp_path: Path, experiment: BuildSpec, open_recorder: OpenRecorder) -> Callable[..., Search]:
    """`search(attempt, rule, field=...)`: an attempt at such an experiment, without Ray, in `tmp_path`."""
    from tests.support.searches import Search

    def begin(attempt: int = 1, rule: EarlyStoppingSpec | None = None, **changes: Any) -> Search:
        spec = experiment(**changes)
        return Search(spec, open_recorder(attempt, spec.objective), tmp_path, rule)

    return begin


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(tmp_path: Path, migrated: Path) -> Iterator[MlflowClient]:
    """Of MLflow, over a database of its own."""
    import mlflow
    from mlflow import MlflowClient

    shutil.copy(migrated, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)  # the store looks logged models up there
    client = MlflowClient(uri)
    client.create_experiment("driver", artifact_location=(tmp_path / "artifacts").as_uri())
    yield client
    mlflow.set_tracking_uri(before)


@pytest.fixture
def launch(tmp_path: Path) -> BuildLaunch:
    """`launch(field=...)`: the launch config of an attempt in `tmp_path`."""
    return partial(launch_config, tmp_path)


@pytest.fixture
def attempt(
    service: HeartbeatService, experiment: BuildSpec, launch: BuildLaunch, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Attempted]:
    """`attempt(trials, launch fields)`: one whose trials are run by `trials(recorder, callback)`; `changes` replace
    fields of its spec."""
    from tests.support.attempts import attempt_at
    from workers.tracking import repetition, retry

    monkeypatch.setattr(repetition, "PATIENCE_S", 0.0)
    monkeypatch.setattr(retry, "POLL_S", 0.01)
    monkeypatch.setattr(retry, "STOP_GRACE_S", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def run(
        trials: Trials,
        /,
        *,
        mlflow: bool = True,
        evaluation: ScriptedEvaluation | None = None,
        probe: ScriptedProbe | None = None,
        changes: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Attempted:
        config = launch(service_url=f"http://127.0.0.1:{service.port}", heartbeat_s=0.6, **fields)
        spec = experiment(**{"searcher": {"kind": "random", "num_samples": 1}, **(changes or {})})
        return attempt_at(service, config, spec, trials, mlflow=mlflow, evaluation=evaluation, probe=probe)

    return run
