"""Uploads of checkpoints: an epoch does not wait for its own, and what is reported is at most one epoch ahead of it."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

import pytest
import torch

from search_spaces.layout import BEST, LAST
from search_spaces.storage.folder import FolderArtifacts
from tests.support.trial_slots import begun, folder_of, said, timeless
from workers.failures.classification import TrialError
from workers.trial import worker

WAIT_S = 30


class Store:
    """A folder that is remote: uploads of `last.pt` begin, and end when the test lets them or raise what it says."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self._let = threading.Semaphore(0)
        self._free = False
        self._uploads = itertools.count(1)
        self.failing: set[int] = set()  # numbers of uploads, from 1

    def let(self) -> None:
        self._let.release()

    def let_all(self) -> None:
        self._free = True
        self._let.release()

    def pass_through(self) -> None:
        self.begun.release()
        if not self._free:
            assert self._let.acquire(timeout=WAIT_S)
        if next(self._uploads) in self.failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO), LAST)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    store = Store()
    write, rotate = FolderArtifacts.write, FolderArtifacts.rotate

    def is_ours(artifacts: FolderArtifacts) -> bool:
        """A thread of an earlier test may still upload."""
        return artifacts._root.is_relative_to(tmp_path)

    def held_write(self: FolderArtifacts, name: PurePath, *content: Any, **options: Any) -> None:
        if name.name == LAST and is_ours(self):
            store.pass_through()
        write(self, name, *content, **options)

    def held_rotate(self: FolderArtifacts, *arguments: Any) -> None:
        if is_ours(self):
            store.pass_through()
        rotate(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(FolderArtifacts, "is_remote", True)
        patch.setattr(FolderArtifacts, "write", held_write)
        patch.setattr(FolderArtifacts, "rotate", held_rotate)
        patch.setattr(worker, "UPLOAD_POLL_S", 0.01)
        patch.setattr(worker, "UPLOAD_S", 0.0)
        yield store
        store.let_all()


def stored(config: dict[str, Any], name: str = LAST) -> int:
    """The epoch of a stored checkpoint; 0 for none."""
    path = folder_of(config) / name
    if not path.exists():
        return 0
    content = torch.load(path, weights_only=True)
    return int(content["training"]["epoch"] if name == LAST else content["epoch"])


@pytest.fixture
def expected(config: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """The epochs of the trial where every one is stored before it is reported."""
    whole = begun(config(name="whole", max_epochs=6))
    return [timeless(whole.step()) for _ in range(4)]


def in_background(action: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def test_the_next_epoch_is_trained_while_one_is_uploaded(
    expected: list[dict[str, Any]], config: Callable[..., dict[str, Any]], store: Store
) -> None:
    told = config(max_epochs=6)
    slot = begun(told)
    first = slot.step()
    assert store.begun.acquire(timeout=WAIT_S)
    assert stored(told) == 0
    results = [first]
    second = in_background(lambda: results.append(slot.step()))
    second.join(0.5)
    assert not store.begun.acquire(blocking=False), "one upload at a time"
    assert len(results) == 1
    store.let()
    second.join(WAIT_S)
    assert stored(told) == 1, "what is stored is what was reported, whatever was trained meanwhile"
    store.let_all()
    results += [slot.step(), slot.step()]
    assert [timeless(result) for result in results] == expected
    slot.cleanup()
    assert stored(told) == 4


def test_the_last_epoch_is_stored_before_it_is_reported(config: Callable[..., dict[str, Any]], store: Store) -> None:
    told = config(max_epochs=1)
    slot = begun(told)
    only = in_background(slot.step)
    assert store.begun.acquire(timeout=WAIT_S)
    only.join(0.5)
    assert only.is_alive()
    store.let()
    only.join(WAIT_S)
    assert (stored(told), stored(told, BEST)) == (1, 1)


@pytest.mark.parametrize("end", ["cleanup", "stop"])
def test_a_process_waits_for_its_upload_before_it_leaves_the_trial(
    config: Callable[..., dict[str, Any]], store: Store, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """As when the trial ends, is paused or yields its slot."""
    monkeypatch.setattr(worker, "STOP_POLL_S", 0.0)
    told = config()
    slot = begun(told)
    slot.step()
    if end == "stop":
        slot._stop_signal.ask()
    leaving = in_background(slot.step if end == "stop" else slot.cleanup)
    leaving.join(0.5)
    assert leaving.is_alive()
    assert stored(told) == 0
    store.let()
    leaving.join(WAIT_S)
    assert not leaving.is_alive()
    assert stored(told) == 1


@pytest.mark.parametrize("epochs", [1, 3])
def test_an_epoch_whose_upload_was_lost_is_trained_again_bit_for_bit(
    expected: list[dict[str, Any]], config: Callable[..., dict[str, Any]], store: Store, epochs: int
) -> None:
    """Its process was killed; the journal has the epoch."""
    told = config(max_epochs=6)
    slot = begun(told)
    for _ in range(epochs - 1):
        slot.step()
        store.let()
    slot.step()
    assert stored(told) == epochs - 1
    again = begun(told | {"epoch": epochs})
    result = again.step()
    assert result["resumed_after"] == epochs - 1, "by which the driver knows that an epoch is trained again"
    if epochs > 1:
        assert timeless(result) == expected[epochs - 2], "reported again"
        result = again.step()
    assert timeless(result) == expected[epochs - 1]


def test_a_trial_that_moves_waits_for_the_upload_of_the_process_before(
    expected: list[dict[str, Any]],
    config: Callable[..., dict[str, Any]],
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "UPLOAD_S", WAIT_S)
    told = config(max_epochs=6) | {"epoch": 0}
    slot = begun(told)
    slot.step(), store.let(), slot.step()
    assert stored(told) == 1
    moved: list[dict[str, Any]] = []
    other = in_background(lambda: moved.append(begun(told | {"epoch": 2}).step()))
    other.join(0.5)
    assert not moved
    store.let_all()
    other.join(WAIT_S)
    assert (timeless(moved[0]), moved[0]["resumed_after"]) == (expected[1], 2)


def test_the_next_epoch_makes_up_for_an_upload_that_failed(
    expected: list[dict[str, Any]], config: Callable[..., dict[str, Any]], store: Store
) -> None:
    told = config(max_epochs=6)
    slot = begun(told)
    store.let_all()
    store.failing = {1}
    results = [slot.step(), slot.step()]
    assert stored(told) == 2, "it is waited for: otherwise two reported epochs could be lost"
    assert "the checkpoint of the epoch before is not stored: [Errno 5]" in said(told)
    results += [slot.step(), slot.step()]
    assert [timeless(result) for result in results] == expected


def test_a_storage_that_fails_twice_cannot_be_used(config: Callable[..., dict[str, Any]], store: Store) -> None:
    told = config()
    slot = begun(told)
    store.let_all()
    store.failing = {2, 3}
    slot.step(), slot.step()
    with pytest.raises(TrialError, match="cannot use RUNG_STORAGE_ROOT"):
        slot.step()
    assert stored(told) == 1
    assert begun(told | {"epoch": 2}).step()["resumed_after"] == 1


def test_a_failure_at_the_end_is_in_the_log(config: Callable[..., dict[str, Any]], store: Store) -> None:
    told = config()
    slot = begun(told)
    store.let_all()
    store.failing = {1}
    slot.step()
    slot.cleanup()
    assert "the checkpoint of the newest epoch is not stored: [Errno 5]" in said(told)
