"""From Ray: why one of Ray's processes failed, and of which kind the failure is, as the driver learns of it.

Owns the reading of what Ray and Ray Tune hand over: exceptions by their types, and text only of a process that failed
before its first step, for which Ray gives nothing else. It must not know the journal, the service or how a trial is
trained.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray import exceptions as ray_errors

from search_spaces.protocol import ErrorKind
from search_spaces.storage.base import DISK_FULL_ERRNOS, UNUSABLE_ERRNOS
from search_spaces.tracebacks import own_line
from workers.failures import classification
from workers.failures.classification import Failure, TrialError

log = logging.getLogger(__name__)

SILENT = "the trial's process died without an error message"

LOST = (
    ray_errors.RayActorError,
    ray_errors.WorkerCrashedError,
    ray_errors.NodeDiedError,
    ray_errors.ObjectLostError,
    ray_errors.LocalRayletDiedError,
)
#: The first line of Tune's file of an error.
TUNES_HEADING = re.compile(r"\AFailure # \d+ \(occurred at .*\)\n")
#: An OSError for a full disk, in the text of an error of Ray Tune's.
DISK_FULL_LINE = re.compile(
    rf"\bOSError: \[Errno ({'|'.join(map(str, sorted(DISK_FULL_ERRNOS)))})\](?!.*'{classification.SHARED_MEMORY})"
)
#: The same for a file system that cannot be used.
UNUSABLE_LINE = re.compile(rf"\b(?:OSError|PermissionError): \[Errno ({'|'.join(map(str, sorted(UNUSABLE_ERRNOS)))})\]")


def of_trial(trial: Any) -> Failure:
    """The failure of one of Ray Tune's trials, from the two files in which Tune has just stored it."""
    return classify(_unpickled(trial.pickled_error_file), _read(trial.error_file))


def classify(error: BaseException | None, text: str = "") -> Failure:
    """The failure behind `error`, or behind the `text` of its traceback; either may be missing."""
    while isinstance(error, ray_errors.RayTaskError):
        error = error.cause
    match error:
        case TrialError():
            return error.failure
        case None:
            return classification.parse(text) or (
                Failure(ErrorKind.CODE, _own_line(text)) if text.strip() else Failure(ErrorKind.LOST, SILENT)
            )
        case ray_errors.OutOfMemoryError():
            return Failure(ErrorKind.OUT_OF_MEMORY, _own_line(text or str(error)))
        case ray_errors.OutOfDiskError():
            return Failure(ErrorKind.DISK_FULL, _own_line(text or str(error)))
        case ray_errors.RayActorError() if error.actor_init_failed:
            return classification.parse(str(error)) or Failure(ErrorKind.CODE, _own_line(str(error)))
        case _ if isinstance(error, LOST):
            return Failure(ErrorKind.LOST, _last_line(text or str(error)))
        case _:
            return classification.classify(error)


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk or an exhausted quota is behind an exception of the driver's own, or of Tune's."""
    return classification.is_disk_full(error) or bool(DISK_FULL_LINE.search(classification.text_of(error)))


def is_storage_unusable(error: BaseException) -> bool:
    """Whether a file system that cannot be used is behind an exception of the driver's own, or of Tune's."""
    return classification.is_storage_unusable(error) or bool(UNUSABLE_LINE.search(classification.text_of(error)))


def _unpickled(path: str | None) -> BaseException | None:
    """The exception that this driver's own Tune has pickled; None where it cannot be loaded."""
    if path is None:
        return None
    try:
        found = cloudpickle.loads(Path(path).read_bytes())
    except Exception as error:  # unpickling runs the exception's own code, which may raise anything
        log.warning("%s cannot be loaded, so its text is used: %r", path, error)
        return None
    return found if isinstance(found, BaseException) else None


def _read(path: str | None) -> str:
    try:
        return Path(path).read_text(errors="replace") if path else ""
    except OSError:
        return ""


def _own_line(text: str) -> str:
    """The exception's own line in the text of a traceback, below what Tune writes above it."""
    return own_line(TUNES_HEADING.sub("", text))[: classification.LONGEST_REASON] or SILENT


def _last_line(text: str) -> str:
    """The last line of what Ray says about a process that was lost, which says how it ended."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][: classification.LONGEST_REASON] if lines else SILENT
