"""Classification: what went wrong in a trial's process, and of which kind it is.

Owns the classification of exceptions, in the process that raises them and by their types, and the error that carries
the kind to the driver. Text is read only of torch's errors, whose types do not tell. It must not know Ray, the journal
or the service.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from search_spaces.datasets.base import DataError
from search_spaces.phrases import abridged
from search_spaces.protocol import ErrorKind, sanitize_text
from search_spaces.storage.base import DISK_FULL_ERRNOS, MISPLACED_ERRNOS, UNUSABLE_ERRNOS
from search_spaces.tracebacks import own_line
from workers.targets import ImportTargetError

LONGEST_REASON = 500  # characters
LONGEST_NAME = 100  # characters of the name of an exception's class
LONGEST_TEXT = 20_000  # characters of an exception, in which the sentence is looked for
LONGEST_DATA_REASON = 5000  # characters: it names the files that must be repaired
SHARED_MEMORY = "/dev/shm/"  # looks like a disk, but is memory that other processes give back

#: Torch raises plain RuntimeErrors for these.
TORCH_DISK_FULL = re.compile(r"PytorchStreamWriter failed writing file|inline_container.*unexpected pos|iostream error")
TORCH_MEMORY = re.compile(
    r"can't allocate memory: you tried to allocate|CUDA (error: )?out of memory|(CUBLAS|CUDNN)_STATUS_ALLOC_FAILED"
    r"|unable to (allocate shared memory|write to file </torch_|open shared memory)"
)
#: The line with which Python ends the traceback of a `TrialError`, for where Ray hands over only that text.
LINE = re.compile(r"^(?:[\w.]+\.)?TrialError: \[([A-Z_]+)\] (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Failure:
    """Why a trial failed: the kind, and one sentence for the user. `node`: Ray's id of a node that cannot be used
    though others may be. `exceeds_share`: its process wanted more than its share of a memory that others share."""

    kind: ErrorKind
    reason: str
    node: str = ""
    exceeds_share: bool = False


class TrialError(Exception):
    """A trial's process failed. Unlike the exception behind it, it can always be pickled."""

    def __init__(self, kind: ErrorKind, reason: str, node: str = "", exceeds_share: bool = False) -> None:
        super().__init__(kind, reason, node, exceeds_share)
        self.failure = Failure(ErrorKind(kind), reason, node, exceeds_share)

    def __str__(self) -> str:
        return f"[{self.failure.kind}] {self.failure.reason}"


class NodeError(Exception):
    """The node of a process cannot be used, though others may. The message names it; `node` is Ray's id of it.

    `kind` is of what is wrong with the node: for example, its data or its disk.
    """

    def __init__(self, message: str, node: str = "", kind: ErrorKind = ErrorKind.NODE) -> None:
        super().__init__(message)
        self.node = node
        self.kind = kind


@contextmanager
def classified(exceeds_share: Callable[[BaseException], bool] = lambda _: False) -> Iterator[None]:
    """Raise a TrialError for every exception. `exceeds_share`: whether one tells that the process wanted more than its
    share of a memory that others share.

    It hides the exception behind it, whose traceback Ray would send: its text may be too long, or have halves of
    surrogate pairs, of which Ray's process dies. The log of the trial has the traceback.
    """
    try:
        yield
    except TrialError:
        raise
    except (Exception, KeyboardInterrupt) as error:  # Ray would take the latter, of a plugin, for a canceled task
        failure = classify(error)
        too_much = failure.kind is ErrorKind.OUT_OF_MEMORY and any(map(exceeds_share, _chain(error)))
        raise TrialError(failure.kind, failure.reason, failure.node, too_much) from None


def classify(error: BaseException) -> Failure:
    """The failure behind an exception, by the types of the exception and of those from which it was raised."""
    unusable = next((one for one in _chain(error) if isinstance(one, NodeError)), None)
    if unusable is not None:
        return Failure(unusable.kind, text_of(unusable)[: _longest(unusable.kind)], unusable.node)
    kinds = {_kind(one) for one in _chain(error)}
    # In this order: a full disk or too little memory may be behind any other exception.
    for kind in (ErrorKind.DISK_FULL, ErrorKind.OUT_OF_MEMORY, ErrorKind.DATA, ErrorKind.PLUGIN):
        if kind in kinds:
            return Failure(kind, sentence(error, _longest(kind)))
    return Failure(ErrorKind.CODE, sentence(error))


def parse(text: str) -> Failure | None:
    """The failure in the text of a `TrialError`'s traceback; None for any other text."""
    found = LINE.findall(text)
    if not found or found[-1][0] not in ErrorKind.__members__:
        return None
    kind, reason = found[-1]
    return Failure(ErrorKind(kind), reason)


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk or an exhausted quota is behind an exception."""
    return any(_kind(one) is ErrorKind.DISK_FULL for one in _chain(error))


def is_storage_unusable(error: BaseException) -> bool:
    """Whether a file system that cannot be used, or a misplaced file, is behind an exception. Not for exceptions of a
    user's own code."""
    errnos = UNUSABLE_ERRNOS | MISPLACED_ERRNOS
    return any(isinstance(one, OSError) and one.errno in errnos for one in _chain(error))


def sentence(error: BaseException, longest: int = LONGEST_REASON) -> str:
    """The exception in one line: its type, and its own line in its text."""
    name, line = sanitize_text(type(error).__name__)[:LONGEST_NAME], own_line(text_of(error))
    return f"{name}: {line}"[:longest] if line else name


def text_of(error: BaseException) -> str:
    """What an exception says, as it can be stored and sent: of bounded length, without halves of surrogate pairs."""
    try:
        text = str(error)
    except Exception as another:  # the exception is of somebody's own class
        text = f"its text cannot be read: {type(another).__name__}"
    return sanitize_text(abridged(text, LONGEST_TEXT))


def _longest(kind: ErrorKind) -> int:
    return LONGEST_DATA_REASON if kind is ErrorKind.DATA else LONGEST_REASON


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _kind(error: BaseException) -> ErrorKind:
    """Of one exception, whatever is behind it."""
    torch = sys.modules.get("torch")  # an error of torch's is only raised where torch is imported
    match error:
        case TrialError():
            return error.failure.kind
        case DataError():
            return ErrorKind.DATA
        case ImportTargetError():
            return ErrorKind.PLUGIN
        case OSError() if error.errno in DISK_FULL_ERRNOS:
            in_memory = str(error.filename or "").startswith(SHARED_MEMORY)
            return ErrorKind.OUT_OF_MEMORY if in_memory else ErrorKind.DISK_FULL
        case MemoryError():
            return ErrorKind.OUT_OF_MEMORY
        case RuntimeError() if torch and isinstance(error, torch.OutOfMemoryError):
            return ErrorKind.OUT_OF_MEMORY
        case RuntimeError() if TORCH_MEMORY.search(text_of(error)):
            return ErrorKind.OUT_OF_MEMORY
        case RuntimeError() if TORCH_DISK_FULL.search(text_of(error)):
            return ErrorKind.DISK_FULL
        case _:
            return ErrorKind.CODE
