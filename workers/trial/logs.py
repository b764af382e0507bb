"""Logs: what a process prints and logs, kept as an artifact of the experiment beside where it goes anyway.

Owns the artifact: bounded, written line by line so that a killed process leaves all of its output, readable by its
owner only. A log is worth less than the work it is about: a full disk or a missing folder never raises here. It must
not know which process writes.
"""

from __future__ import annotations

import faulthandler
import io
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePath
from typing import BinaryIO, TextIO

from search_spaces.phrases import abridged, counted
from search_spaces.storage.base import ArtifactStore

TRIAL_BYTES, DRIVER_BYTES = 10 * 2**20, 100 * 2**20
LONGEST_LINE = 2**16  # characters: more of one line than a person reads
MOST_LINES = 1000  # that are written at once
LONGEST_TEXT = 2**17  # characters of a traceback or of a record
#: A piece of a text up to the end of a line; a progress bar ends its lines with a carriage return.
PIECE = re.compile(r"[^\r\n]*[\r\n]|[^\r\n]+")
FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"

#: Libraries whose loggers do not propagate to the root logger.
NON_PROPAGATING = ("ray",)


class LogFile(io.TextIOBase):
    """A text artifact that is appended to, whole lines at a time, up to `limit_bytes`; the last line then says so.

    Of a line longer than LONGEST_LINE, the beginning is kept, and how much was left out.
    """

    def __init__(self, artifacts: ArtifactStore, name: PurePath, limit_bytes: int = TRIAL_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._line, self._left_out = "", 0
        self._file: BinaryIO | None = None
        self._size = 0
        try:
            self._file = artifacts.open_appender(name)
            self._size = self._file.tell()
        except OSError as error:
            print(f"the log {name} cannot be written: {error}", file=sys.__stderr__)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        if self._file is None:
            raise io.UnsupportedOperation("no file")
        return self._file.fileno()

    def write(self, text: str) -> int:
        with self._lock:
            lines: list[str] = []
            for piece in PIECE.finditer(text):
                line = piece[0].rstrip("\r\n")
                room = LONGEST_LINE - len(self._line)
                self._line += line[:room]
                self._left_out += max(0, len(line) - room)
                if end := piece[0][len(line) :]:
                    lines.append(self._take_line() + end)
                if len(lines) > MOST_LINES:
                    self._append("".join(lines))
                    lines.clear()
            self._append("".join(lines))
        return len(text)

    def close(self) -> None:
        with self._lock:
            if self._line:
                self._append(self._take_line() + "\n")
            if self._file is not None:
                with suppress(OSError):
                    self._file.close()
                self._file = None
        super().close()

    def _take_line(self) -> str:
        """The line so far; the next one begins."""
        line, left_out = self._line, self._left_out
        self._line, self._left_out = "", 0
        return f"{line} ... {counted(left_out, 'character')} of this line left out" if left_out else line

    def _append(self, text: str) -> None:
        if not text or self._file is None or self._size >= self._limit_bytes:
            return
        content = text.encode(errors="backslashreplace")
        if len(content) > (room := self._limit_bytes - self._size):
            last = f"... this log ends here: its limit of {self._limit_bytes} bytes is reached\n"
            content = content[: content.rfind(b"\n", 0, room) + 1] + last.encode()
            self._size = self._limit_bytes
        with suppress(OSError):  # a full disk, which can be reported nowhere
            self._size += self._file.write(content)


class _Tee(io.TextIOBase):
    """A stream that writes to another one and to a log."""

    def __init__(self, stream: TextIO, log: LogFile) -> None:
        self._stream, self._log = stream, log

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._log.write(text)
        try:
            return self._stream.write(text)
        except (
            UnicodeEncodeError
        ):  # a half of a surrogate pair, or a character that the stream's encoding does not have
            encoding = self.encoding or "ascii"
            return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()


class _Formatter(logging.Formatter):
    """A record in Rung's format, of bounded length: it may quote an exception of any."""

    def format(self, record: logging.LogRecord) -> str:
        return abridged(super().format(record), LONGEST_TEXT)


@contextmanager
def process_log(artifacts: ArtifactStore, name: PurePath, limit_bytes: int = DRIVER_BYTES) -> Iterator[None]:
    """`captured`, in a new log, for the rest of a process; if the process crashes, the log has its stack traces."""
    log = LogFile(artifacts, name, limit_bytes)
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
    """In the block, `log` receives what this process prints and logs, and the traceback of what the block raises."""
    handler = logging.StreamHandler(log)
    handler.setFormatter(_Formatter(FORMAT))
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
        log.write(abridged(traceback.format_exc(), LONGEST_TEXT))
        raise
    finally:
        sys.stdout, sys.stderr = streams
        for logger in loggers:
            logger.removeHandler(handler)
        _set_level(root, level)


def _set_level(logger: logging.Logger, level: int) -> None:
    """Only if it changes: each call clears the cache of every logger, which costs half a millisecond of an epoch."""
    if logger.level != level:
        logger.setLevel(level)
