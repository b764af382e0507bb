"""Logs: what a process says, kept in a file of the experiment's folder beside where it goes anyway.

Owns the file: bounded, written line by line so that a killed process leaves all it said, readable by its
owner alone. A log is of less worth than what it tells of: a full disk or an absent folder never raises here.
It must not know who speaks.
"""

from __future__ import annotations

import faulthandler
import io
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

TRIAL_LOG = "trial.log"
TRIAL_BYTES, DRIVER_BYTES = 10 * 2**20, 100 * 2**20
FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"

#: Libraries whose loggers do not pass on what they say.
NON_PROPAGATING = ("ray",)


class LogFile(io.TextIOBase):
    """A text file that is appended to, whole lines at a time, up to `limit_bytes`; then it says so, once, and stops."""

    def __init__(self, path: Path, limit_bytes: int = TRIAL_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._line = ""
        self._descriptor = -1
        self._size = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._size = os.fstat(self._descriptor).st_size
        except OSError as error:
            print(f"no log {path}: {error}", file=sys.__stderr__)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        if self._descriptor < 0:
            raise io.UnsupportedOperation("no file")
        return self._descriptor

    def write(self, text: str) -> int:
        with self._lock:
            whole, newline, self._line = (self._line + text).rpartition("\n")
            if newline:
                self._append(whole + newline)
            elif len(self._line) > 2**16:  # of a recorder bar, for example, which never ends its line
                self._append(self._line)
                self._line = ""
        return len(text)

    def close(self) -> None:
        with self._lock:
            if self._line:
                self._append(self._line + "\n")
                self._line = ""
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
        super().close()

    def _append(self, text: str) -> None:
        if self._descriptor < 0 or self._size >= self._limit_bytes:
            return
        content = text.encode(errors="backslashreplace")
        if self._size + len(content) > self._limit_bytes:
            content = f"... this log ends here: it may grow to {self._limit_bytes} bytes\n".encode()
            self._size = self._limit_bytes
        with suppress(OSError):  # a full disk; there is nobody to tell
            self._size += os.write(self._descriptor, content)


class _Tee(io.TextIOBase):
    """A stream that passes on to another and to a log."""

    def __init__(self, stream: TextIO, log: LogFile) -> None:
        self._stream, self._log = stream, log

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._log.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()


@contextmanager
def process_log(path: Path, limit_bytes: int = DRIVER_BYTES) -> Iterator[None]:
    """`captured`, in a new log at `path`, for the rest of a process; also where the process is when it crashes."""
    log = LogFile(path, limit_bytes)
    with suppress(io.UnsupportedOperation):
        faulthandler.enable(log)
    try:
        with captured(log):
            yield
    finally:
        faulthandler.disable()
        log.close()


@contextmanager
def captured(log: LogFile) -> Iterator[None]:
    """Within, `log` has what this process prints and logs, and the traceback of what is raised to the caller."""
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, NON_PROPAGATING)]
    level, streams = root.level, (sys.stdout, sys.stderr)
    _set_level(root, min(level, logging.INFO) or logging.INFO)
    for logger in loggers:
        logger.addHandler(handler)
    sys.stdout, sys.stderr = _Tee(sys.stdout, log), _Tee(sys.stderr, log)
    try:
        yield
    except (Exception, KeyboardInterrupt):
        log.write(traceback.format_exc())
        raise
    finally:
        sys.stdout, sys.stderr = streams
        for logger in loggers:
            logger.removeHandler(handler)
        _set_level(root, level)


def _set_level(logger: logging.Logger, level: int) -> None:
    """Where it changes: each call makes every logger forget what it knows, half a millisecond of an epoch."""
    if logger.level != level:
        logger.setLevel(level)
