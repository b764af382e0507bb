"""Checkpoints: complete or absent, also on a full disk; which of them are kept."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces.checkpoint_policy import CheckpointPolicy
from search_spaces.layout import BEST, LAST, PREVIOUS, TrialFolder
from search_spaces.storage.folder import FolderArtifacts
from workers.state import checkpoints
from workers.state.checkpoints import CheckpointDamagedError

#: The trial's files are at the top of the store.
TRIAL = TrialFolder(Path())


def state(number: int, values: int = 10) -> dict[str, Any]:
    return {"epoch": number, "weights": torch.full((values,), float(number))}


def save_last(content: dict[str, Any], folder: Path, rotate: bool = True) -> None:
    checkpoints.store_last(checkpoints.encoded(content), FolderArtifacts(folder), TRIAL, rotate=rotate)


def epochs(folder: Path) -> list[tuple[str, int]]:
    return [(name, content["epoch"]) for name, content in checkpoints.load_newest(FolderArtifacts(folder), TRIAL)]


def test_the_last_two_are_kept_and_the_newest_comes_first(tmp_path: Path) -> None:
    assert epochs(tmp_path) == []
    for number in (1, 2, 3):
        save_last(state(number), tmp_path)
    assert epochs(tmp_path) == [(LAST, 3), (PREVIOUS, 2)]
    assert {path.name for path in tmp_path.iterdir()} == {LAST, PREVIOUS}


def test_an_unusable_checkpoint_is_overwritten(tmp_path: Path) -> None:
    save_last(state(1), tmp_path)
    save_last(state(2), tmp_path)
    save_last(state(7), tmp_path, rotate=False)
    assert epochs(tmp_path) == [(LAST, 7), (PREVIOUS, 1)]


def test_it_is_synced_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, bool]] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, (tmp_path / LAST).exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    save_last(state(1), tmp_path)
    assert synced == [((tmp_path / LAST).stat().st_ino, False)]


@pytest.mark.parametrize("missing", [LAST, PREVIOUS])
def test_a_process_killed_between_two_renames_leaves_one_checkpoint(tmp_path: Path, missing: str) -> None:
    for number in (1, 2):
        save_last(state(number), tmp_path)
    (tmp_path / missing).unlink()
    assert len(epochs(tmp_path)) == 1
    save_last(state(3), tmp_path)
    assert epochs(tmp_path)[0] == (LAST, 3)
    assert len(epochs(tmp_path)) == 2


def test_a_changed_byte_is_detected(tmp_path: Path) -> None:
    """Wherever a byte of the weights is changed; torch itself would read it."""
    path = tmp_path / BEST
    FolderArtifacts(tmp_path).write(TRIAL.best, checkpoints.encoded(state(1, 1000)))
    whole = path.read_bytes()
    start = whole.index(state(1)["weights"].numpy().tobytes())
    for place in range(start, start + 4000, 397):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert torch.load(path, weights_only=True)["epoch"] == 1
        with pytest.raises(CheckpointDamagedError, match=r"best\.pt: .* is not what was written"):
            checkpoints.load(FolderArtifacts(tmp_path), TRIAL.best)


def test_a_full_disk_changes_nothing(small_disk: Path) -> None:
    for number in (1, 2):
        save_last(state(number, 60_000), small_disk)
    with pytest.raises(OSError, match="No space left") as raised:
        save_last(state(3, 250_000), small_disk)
    assert raised.value.errno == errno.ENOSPC
    assert epochs(small_disk) == [(LAST, 2), (PREVIOUS, 1)]
    assert {path.name for path in small_disk.iterdir()} == {LAST, PREVIOUS}, "nothing half written stays"
    save_last(state(3, 60_000), small_disk)
    assert epochs(small_disk) == [(LAST, 3), (PREVIOUS, 2)]


@pytest.mark.parametrize(
    ("policy", "registered", "kept"),
    [
        ("best", False, {"1/best.pt"}),
        ("best", True, {"1/best.pt"}),
        ("last", True, {"0/last.pt", "1/best.pt", "1/last.pt"}),
        ("none", False, {"1/best.pt"}),
        ("none", True, set()),
    ],
)
def test_the_policy_decides_what_stays(
    tmp_path: Path, policy: CheckpointPolicy, registered: bool, kept: set[str]
) -> None:
    for number in range(3):
        folder = tmp_path / "trials" / f"{number:05d}"
        folder.mkdir(parents=True)
        for name in (LAST, PREVIOUS, BEST, "last.pt.77", "best.pt.77.part", "spec.json", "trial.log"):
            (folder / name).touch()
    for _ in range(2):
        checkpoints.prune(FolderArtifacts(tmp_path), [0, 1, 9], best={1}, policy=policy, winner_registered=registered)
    files = {f"{path.parent.name[-1]}/{path.name}" for path in tmp_path.rglob("*.*")}
    running = {name for name in files if name.startswith("2/")}
    assert len(running) == 7, "a trial that has not ended is not touched"
    assert files - running == kept | {f"{number}/{name}" for number in (0, 1) for name in ("spec.json", "trial.log")}
