"""Failures as Ray and Ray Tune hand them over: by the exception, and by its text where that is all there is."""

from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from search_spaces.protocol import ErrorKind
from workers.failures import from_ray
from workers.failures.classification import Failure, TrialError

DATA = TrialError(ErrorKind.DATA, "DataError: no folder /dev/shm/x")
TRACE = f"Traceback (most recent call last):\n  ...\nworkers.failures.classification.TrialError: {DATA}"


def stored(folder: Path, error: BaseException, text: str = "", pickled: bool = True) -> Any:
    """A trial of Tune's with the two files in which Tune stores an exception."""
    (folder / "error.txt").write_text(f"Failure # 1 (occurred at 2026-01-01)\n{text or error}\n")
    (folder / "error.pkl").write_bytes(cloudpickle.dumps(error) if pickled else b"damaged")
    return SimpleNamespace(error_file=str(folder / "error.txt"), pickled_error_file=str(folder / "error.pkl"))


@pytest.mark.parametrize("pickled", [True, False], ids=["exception and text", "only text"])
def test_an_error_of_a_trial_keeps_the_kind_that_its_process_gave_it(pickled: bool, tmp_path: Path) -> None:
    raised = RayTaskError("step", TRACE, DATA).as_instanceof_cause()
    assert from_ray.of_trial(stored(tmp_path, raised, pickled=pickled)) == DATA.failure


def test_an_error_while_a_process_starts_is_read_from_its_text(tmp_path: Path) -> None:
    assert from_ray.of_trial(stored(tmp_path, ActorDiedError(RayTaskError("__init__", TRACE, DATA)))) == DATA.failure
    unknown = ActorDiedError(RayTaskError("__init__", "Traceback\nKeyError: 'x'", KeyError("x")))
    assert from_ray.of_trial(stored(tmp_path, unknown)) == Failure(ErrorKind.CODE, "KeyError: 'x'")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ActorDiedError(), ErrorKind.LOST),
        (NodeDiedError("the node is gone"), ErrorKind.LOST),
        (WorkerCrashedError(), ErrorKind.LOST),
        (OutOfMemoryError("the node was low on memory"), ErrorKind.OUT_OF_MEMORY),
    ],
    ids=["actor", "node", "worker", "memory monitor"],
)
def test_an_error_of_rays_own_has_a_kind(error: Exception, kind: ErrorKind, tmp_path: Path) -> None:
    assert from_ray.of_trial(stored(tmp_path, error)).kind is kind


def test_the_reason_is_what_happened_and_not_the_advice_after_it(tmp_path: Path) -> None:
    text = "Task was killed due to the node running low on memory.\nTo adjust the kill threshold, set `RAY_x`."
    reason = from_ray.of_trial(stored(tmp_path, OutOfMemoryError(text))).reason
    assert reason == "Task was killed due to the node running low on memory."
    died = "The actor died unexpectedly before finishing this task.\n\tclass_name: TrialWorker\nIts worker exited: 137"
    assert from_ray.classify(WorkerCrashedError(), died).reason == "Its worker exited: 137"


def test_a_process_without_an_error_message_was_lost() -> None:
    failure = from_ray.of_trial(SimpleNamespace(error_file=None, pickled_error_file=None))
    assert failure == Failure(ErrorKind.LOST, from_ray.SILENT)


def test_other_text_is_an_error_of_the_code(tmp_path: Path) -> None:
    """Whatever its words are: they may be the user's own."""
    trial = stored(tmp_path, ValueError(), "Traceback\nValueError: CUDA out of memory in /dev/shm", pickled=False)
    assert from_ray.of_trial(trial) == Failure(ErrorKind.CODE, "ValueError: CUDA out of memory in /dev/shm")


def test_a_full_disk_is_found_behind_other_errors_and_in_those_of_tune() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    outer = RuntimeError("saving failed")
    outer.__cause__ = full
    assert from_ray.is_disk_full(full)
    assert from_ray.is_disk_full(outer)
    assert from_ray.is_disk_full(RuntimeError("Traceback\nOSError: [Errno 28] No space left on device"))
    shared = "Traceback\nOSError: [Errno 28] No space left on device: '/dev/shm/plasma'"
    assert not from_ray.is_disk_full(RuntimeError(shared))
    assert not from_ray.is_disk_full(OSError(errno.EIO, "Input/output error"))
    assert not from_ray.is_disk_full(RuntimeError("No space left on device"))
