"""Trial errors: exceptions, raised for real where they can be, have the right kind, by their types."""

from __future__ import annotations

import errno
import pickle
import resource
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from search_spaces.datasets import CIFAR10
from search_spaces.datasets.base import DataError
from search_spaces.protocol import ErrorKind
from workers.data.splits import load
from workers.failures import classification
from workers.failures.classification import TrialError, classified, classify
from workers.targets import resolve_target


def too_much_memory(_: Path) -> None:
    torch.empty(10**15)


def cuda_memory(_: Path) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def python_memory(_: Path) -> None:
    raise MemoryError


def full_shared_memory(_: Path) -> None:
    raise RuntimeError("unable to allocate shared memory(shm) for file </torch_7_1_0>: No space left on device (28)")


def full_shared_memory_as_a_file(_: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "/dev/shm/torch_7_1_0")


def missing_data(folder: Path) -> None:
    load(CIFAR10(), 0, folder, folder / "cache", download=False)


def data_in_shared_memory(_: Path) -> None:
    raise DataError("image_folder: no folder /dev/shm/pictures")


def data_whose_path_says_out_of_memory(_: Path) -> None:
    raise DataError("image_folder: no folder /data/CUDA out of memory/No space left on device")


def full_disk(_: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk_behind_another_error(_: Path) -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as error:
        raise ValueError("could not save") from error


def full_disk_while_data_are_cached(_: Path) -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError as error:
        raise DataError("no space left for decoded data") from error


def exhausted_quota(_: Path) -> None:
    raise OSError(errno.EDQUOT, "x")


def torch_writer_on_a_full_disk(folder: Path) -> None:
    """A limit of the file size stops torch's own writer as a full disk does; its error has no errno."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        torch.save(torch.zeros(1_000_000), folder / "weights.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def wrong_shape(_: Path) -> None:
    torch.zeros(2, 3) @ torch.zeros(2, 3)


def missing_file(folder: Path) -> None:
    (folder / "nowhere").read_text()


def words_of_the_users_own(_: Path) -> None:
    raise ValueError("CUDA out of memory: MemoryError, [Errno 28] No space left on device in /dev/shm, DataError: x")


def interrupt_of_the_users_own(_: Path) -> None:
    raise KeyboardInterrupt


def suppressed_full_disk(_: Path) -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    except OSError:
        raise ValueError("bad value") from None


def absent_module(_: Path) -> None:
    resolve_target("no_such_module:Name")


def import_error_of_the_users_own(_: Path) -> None:
    raise ImportError("no module named x")


RAISED: dict[Callable[[Path], None], ErrorKind] = {
    too_much_memory: ErrorKind.OUT_OF_MEMORY,
    cuda_memory: ErrorKind.OUT_OF_MEMORY,
    python_memory: ErrorKind.OUT_OF_MEMORY,
    full_shared_memory: ErrorKind.OUT_OF_MEMORY,
    full_shared_memory_as_a_file: ErrorKind.OUT_OF_MEMORY,
    missing_data: ErrorKind.DATA,
    data_in_shared_memory: ErrorKind.DATA,
    data_whose_path_says_out_of_memory: ErrorKind.DATA,
    full_disk: ErrorKind.DISK_FULL,
    full_disk_behind_another_error: ErrorKind.DISK_FULL,
    full_disk_while_data_are_cached: ErrorKind.DISK_FULL,
    exhausted_quota: ErrorKind.DISK_FULL,
    torch_writer_on_a_full_disk: ErrorKind.DISK_FULL,
    absent_module: ErrorKind.PLUGIN,
    import_error_of_the_users_own: ErrorKind.CODE,
    wrong_shape: ErrorKind.CODE,
    missing_file: ErrorKind.CODE,
    words_of_the_users_own: ErrorKind.CODE,
    suppressed_full_disk: ErrorKind.CODE,
    interrupt_of_the_users_own: ErrorKind.CODE,
}


@pytest.mark.parametrize("action", RAISED, ids=lambda action: action.__name__)
def test_an_exception_is_classified_and_survives_pickling_and_text(
    action: Callable[[Path], None], tmp_path: Path
) -> None:
    with pytest.raises(TrialError) as raised, classified():
        action(tmp_path)
    failure = raised.value.failure
    assert failure.kind is RAISED[action]
    assert len(failure.reason.splitlines()) == 1
    assert type(raised.value.__context__).__name__ in failure.reason
    assert pickle.loads(pickle.dumps(raised.value)).failure == failure
    text = "".join(traceback.format_exception(raised.value))
    assert classification.parse(f"The actor died because of an error raised in its creation task, {text}\n") == failure


def test_only_a_trial_error_is_read_from_text() -> None:
    assert classification.parse("") is None
    assert classification.parse("ValueError: TrialError: [LOST] not at the start of a line") is None
    assert classification.parse("workers.failures.classification.TrialError: [UNHEARD_OF] x") is None


def test_a_trial_error_is_not_classified_again() -> None:
    with pytest.raises(TrialError) as raised, classified():
        raise TrialError(ErrorKind.DATA, "x")
    assert str(raised.value) == "[DATA] x"


def test_a_long_reason_is_cut() -> None:
    assert len(classification.sentence(ValueError("x" * 10_000))) == classification.LONGEST_REASON
    assert classification.sentence(ValueError()) == "ValueError"
    assert (
        classification.sentence(RuntimeError("CUDA error: assert\nCompile with `TORCH_USE_CUDA_DSA` to see more"))
        == "RuntimeError: CUDA error: assert"
    )
    assert (
        classification.sentence(ValueError("Traceback:\n  somewhere\nKeyError: 'x'\n")) == "ValueError: KeyError: 'x'"
    )


def test_the_reason_of_a_data_error_names_every_file() -> None:
    names = [f"class/{number:03}.png (is empty)" for number in range(100)]
    failure = classify(DataError(f"image_folder: 100 damaged images: {', '.join(names)}"))
    assert all(name in failure.reason for name in names)
    assert len(classify(DataError("x" * 100_000)).reason) == 5000
