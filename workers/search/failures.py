"""Failures: what went wrong with a trial, and of which kind it was.

Owns the classification of exceptions and of the traces they leave; whether a failed trial is tried again
follows from the kind. It must not know the journal, the service or how a trial is run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray import exceptions as ray_errors

from search_spaces.protocol import DISK_FULL_ERRNOS, ErrorKind
from workers.data.errors import DataError

log = logging.getLogger("rung.failures")

LONGEST_REASON = 500  # characters
SILENT = "the trial's process died without a word"

#: Also torch's writer, which fails on a full disk without a word of it.
FULL_WORDS = re.compile(
    r"No space left on device|Disk quota exceeded|\[Errno (28|122)\]|the disk may be full"
    r"|iostream error|PytorchStreamWriter failed writing"
)
#: Shared memory is memory, however much its errors speak of a device without space.
SHARED_MEMORY = re.compile(r"/dev/shm|</?torch_\d+")
MEMORY_WORDS = re.compile(r"CUDA out of memory|can't allocate memory|^[\w.]*MemoryError", re.MULTILINE)
DATA_WORDS = re.compile(rf"^[\w.]*{DataError.__name__}: ", re.MULTILINE)
DATA_MODULES = re.compile(r'workers/data/[a-z_]+\.py"')
LOST = (
    ray_errors.RayActorError,
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.ObjectLostError,
    ray_errors.LocalRayletDiedError,
)


@dataclass(frozen=True)
class Failure:
    """Why a trial failed: a kind, and a sentence for a person."""

    kind: ErrorKind
    reason: str


def of_trial(trial: Any) -> Failure:
    """The failure of one of Ray Tune's trials, from the two files in which Tune has just kept it."""
    return classify(_kept(trial.pickled_error_file), _read(trial.error_file))


def classify(error: BaseException | None, trace: str = "") -> Failure:
    """The failure that `error` and the text of its `trace` tell of; either may be missing.

    The text counts too, because what an exception was raised from is lost when it is pickled.
    """
    while isinstance(error, ray_errors.RayTaskError):
        error = error.cause
    trace = trace or ("" if error is None else f"{type(error).__name__}: {error}")
    for kind, applies in _KINDS:
        if applies(error, trace):
            return Failure(kind, _sentence(trace))
    return Failure(ErrorKind.CODE, _sentence(trace))


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk, or a spent quota, is behind an exception."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS) or FULL_WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _disk_full(error: BaseException | None, trace: str) -> bool:
    if SHARED_MEMORY.search(_sentence(trace)):
        return False
    return isinstance(error, ray_errors.OutOfDiskError) or is_disk_full(error) or bool(FULL_WORDS.search(trace))


def _out_of_memory(error: BaseException | None, trace: str) -> bool:
    return isinstance(error, MemoryError | ray_errors.OutOfMemoryError) or bool(
        MEMORY_WORDS.search(trace) or SHARED_MEMORY.search(_sentence(trace))
    )


def _lost(error: BaseException | None, trace: str) -> bool:
    if isinstance(error, ray_errors.RayActorError) and error.actor_init_failed:
        return False  # its own code failed before the first step
    return isinstance(error, LOST) or not trace.strip()


def _data(error: BaseException | None, trace: str) -> bool:
    if isinstance(error, DataError) or DATA_WORDS.search(trace):
        return True
    return isinstance(error, OSError) and bool(DATA_MODULES.search(trace))


#: In the order in which they are asked: a full disk or memory may be behind anything else.
_KINDS: tuple[tuple[ErrorKind, Callable[[BaseException | None, str], bool]], ...] = (
    (ErrorKind.DISK_FULL, _disk_full),
    (ErrorKind.OUT_OF_MEMORY, _out_of_memory),
    (ErrorKind.LOST, _lost),
    (ErrorKind.DATA, _data),
)


def _kept(path: str | None) -> BaseException | None:
    """The exception that this driver's own Tune has pickled; None where it cannot be loaded."""
    if path is None:
        return None
    try:
        found = cloudpickle.loads(Path(path).read_bytes())
    except Exception as error:  # unpickling runs the exception's own code, which may raise anything
        log.warning("%s cannot be loaded, its text must do: %r", path, error)
        return None
    return found if isinstance(found, BaseException) else None


def _read(path: str | None) -> str:
    try:
        return Path(path).read_text(errors="replace") if path else ""
    except OSError:
        return ""


def _sentence(trace: str) -> str:
    """The last line of a trace, which names the exception."""
    said = [line.strip() for line in trace.splitlines() if line.strip()]
    return said[-1][:LONGEST_REASON] if said else SILENT
