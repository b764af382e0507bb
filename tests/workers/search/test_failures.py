"""Failures: exceptions as Ray hands them over, raised for real where they can be, are told apart."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray import cloudpickle
from ray.exceptions import ActorDiedError, NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

from search_spaces.datasets import CIFAR10
from search_spaces.protocol import ErrorKind
from workers.data.splits import load
from workers.search import failures


def too_much_memory(_: Path) -> None:
    torch.empty(10**15)


def absent_data(folder: Path) -> None:
    load(CIFAR10(), 0, folder, folder / "cache", download=False)


def full_disk(_: Path) -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as error:
        raise ValueError("could not save") from error


def spent_quota(_: Path) -> None:
    raise OSError(errno.EDQUOT, "x")


def full_shared_memory(_: Path) -> None:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_7_1_0>: No space left on device (28)")


def wrong_shape(_: Path) -> None:
    torch.zeros(2, 3) @ torch.zeros(2, 3)


def absent_file(folder: Path) -> None:
    (folder / "nowhere").read_text()


def cuda_memory(_: Path) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def python_memory(_: Path) -> None:
    raise MemoryError


RAISED = {
    too_much_memory: ErrorKind.OUT_OF_MEMORY,
    cuda_memory: ErrorKind.OUT_OF_MEMORY,
    python_memory: ErrorKind.OUT_OF_MEMORY,
    absent_data: ErrorKind.DATA,
    full_disk: ErrorKind.DISK_FULL,
    spent_quota: ErrorKind.DISK_FULL,
    full_shared_memory: ErrorKind.OUT_OF_MEMORY,
    wrong_shape: ErrorKind.CODE,
    absent_file: ErrorKind.CODE,
}


def kept(folder: Path, error: Exception, pickled: bool = True) -> Any:
    """A trial of Tune's with the two files in which Tune keeps an exception."""
    (folder / "error.txt").write_text(f"Failure # 1 (occurred at 2026-01-01)\n{error}\n")
    (folder / "error.pkl").write_bytes(cloudpickle.dumps(error) if pickled else b"damaged")
    return SimpleNamespace(error_file=str(folder / "error.txt"), pickled_error_file=str(folder / "error.pkl"))


@pytest.mark.parametrize("pickled", [True, False], ids=["exception and text", "text alone"])
@pytest.mark.parametrize("action", RAISED, ids=lambda action: action.__name__)
def test_what_is_raised_in_a_step(action: Any, pickled: bool, tmp_path: Path) -> None:
    try:
        action(tmp_path)
    except Exception as error:
        raised, text = error, traceback.format_exc()
    trial = kept(tmp_path, RayTaskError("train", text, raised).as_instanceof_cause(), pickled)
    failure = failures.of_trial(trial)
    assert failure.kind is RAISED[action]
    assert failure.reason == text.strip().splitlines()[-1][: failures.LONGEST_REASON]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ActorDiedError(), ErrorKind.LOST),
        (NodeDiedError("the node is gone"), ErrorKind.LOST),
        (WorkerCrashedError(), ErrorKind.LOST),
        (OutOfMemoryError("the node was low on memory"), ErrorKind.OUT_OF_MEMORY),
        (ActorDiedError(RayTaskError("__init__", "Traceback\nKeyError: 'x'", KeyError("x"))), ErrorKind.CODE),
        (ActorDiedError(RayTaskError("__init__", "Traceback\nMemoryError", MemoryError())), ErrorKind.OUT_OF_MEMORY),
    ],
    ids=["actor", "node", "worker", "memory monitor", "code of a start", "memory of a start"],
)
def test_what_ray_itself_says(error: Exception, kind: ErrorKind, tmp_path: Path) -> None:
    assert failures.of_trial(kept(tmp_path, error)).kind is kind


def test_a_process_that_left_no_word_was_lost() -> None:
    failure = failures.of_trial(SimpleNamespace(error_file=None, pickled_error_file=None))
    assert failure == failures.Failure(ErrorKind.LOST, failures.SILENT)


def test_an_oserror_while_data_are_read_is_of_the_data(tmp_path: Path) -> None:
    trace = 'Traceback\n  File "/x/workers/data/cache.py", line 5, in entry\nOSError: [Errno 5] Input/output error'
    error = RayTaskError("train", trace, OSError(errno.EIO, "Input/output error"))
    assert failures.of_trial(kept(tmp_path, error)).kind is ErrorKind.DATA


def test_a_checkpoint_that_torch_cannot_write_fills_the_disk(tmp_path: Path) -> None:
    """Torch's own writer, stopped by a limit of the file size as by a full disk, names no errno."""
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        torch.save(torch.zeros(1_000_000), tmp_path / "weights.pt")
    except RuntimeError as error:
        raised, text = error, traceback.format_exc()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert failures.of_trial(kept(tmp_path, RayTaskError("train", text, raised))).kind is ErrorKind.DISK_FULL


def test_a_full_disk_is_found_behind_other_exceptions() -> None:
    with pytest.raises(ValueError, match="could not save") as raised:
        full_disk(Path())
    assert failures.is_disk_full(raised.value)
    assert failures.is_disk_full(RuntimeError("OSError: [Errno 28] No space left on device"))
    assert not failures.is_disk_full(OSError(errno.EIO, "Input/output error"))
    assert not failures.is_disk_full(None)
