"""The checkpoints of ended trials in a remote storage, to which a process may still upload one."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces.layout import BEST, LAST, ExperimentFolder
from search_spaces.protocol import TrialState
from search_spaces.storage.folder import FolderArtifacts
from tests.support.workers import OpenRecorder
from workers.search import checkpoint_keeper
from workers.search.checkpoint_keeper import CheckpointKeeper
from workers.state.recorder import Recorder


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Monotonic seconds."""
    monkeypatch.setattr(FolderArtifacts, "is_remote", True)
    return [100.0]


def end(recorder: Recorder, number: int, folder: Path) -> None:
    recorder.record_suggestion(number, {}, {})
    recorder.record_epoch(number, 1, {"validation_accuracy": 0.5 - number / 10}, (TrialState.EARLY_STOPPED, "poor"))
    upload(number, folder)


def upload(number: int, folder: Path) -> None:
    trial = ExperimentFolder(folder).trial(number).root
    trial.mkdir(parents=True, exist_ok=True)
    for name in (LAST, BEST):
        (trial / name).write_bytes(b"weights")


def left(folder: Path) -> list[str]:
    return sorted(f"{path.parent.name}/{path.name}" for path in folder.rglob("*.pt"))


def test_they_are_deleted_when_no_process_can_add_to_them(
    open_recorder: OpenRecorder, tmp_path: Path, now: list[float]
) -> None:
    recorder = open_recorder()
    keeper = CheckpointKeeper(FolderArtifacts(tmp_path / "x"), "best", recorder.table, lambda: now[0])
    for number in (0, 1):
        end(recorder, number, tmp_path / "x")
        keeper.prune([number])
    assert len(left(tmp_path / "x")) == 4, "an upload that ends now would bring them back"
    upload(1, tmp_path / "x")
    now[0] += checkpoint_keeper.UPLOAD_S
    end(recorder, 2, tmp_path / "x")
    keeper.prune([2])
    assert left(tmp_path / "x") == ["00000/best.pt", "00002/best.pt", "00002/last.pt"]
    keeper.finish(0)
    assert left(tmp_path / "x") == ["00000/best.pt"], "at the end of the search nobody uploads"
