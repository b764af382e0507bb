"""What the tests of the tracking package share: the tracker and the recorder of an attempt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from search_spaces.storage.folder import FolderStorage
from tests.support.tracking import BuildTracker
from tests.support.workers import BuildLaunch, BuildSpec, OpenRecorder
from workers.state.recorder import Recorder
from workers.tracking import mlflow_writer, repetition
from workers.tracking.tracker import Tracker


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run after the other, and no request is repeated by itself: a test sees what follows from one that failed."""
    monkeypatch.setattr(mlflow_writer, "AT_ONCE", 1)
    monkeypatch.setattr(repetition, "PATIENCE_S", 0.0)


@pytest.fixture
def tracker(tmp_path: Path, client: MlflowClient, launch: BuildLaunch, experiment: BuildSpec) -> BuildTracker:
    def build(attempt: int = 1, **changes: Any) -> Tracker:
        config = launch(attempt=attempt, mlflow_tracking_uri=client.tracking_uri)
        options = {name: changes.pop(name) for name in ("superseded", "block_bytes", "monotonic") if name in changes}
        return Tracker(config, experiment(**changes), FolderStorage(tmp_path), interval_s=0.01, **options)

    return build


@pytest.fixture
def recorder(open_recorder: OpenRecorder) -> Recorder:
    return open_recorder()
