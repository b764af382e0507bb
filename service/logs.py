"""Logs: the lines that the service writes, as text or as JSON, with the ids of what each is about.

Owns both formats, and the ids of the request, the experiment, the attempt and the trial that the present thread or task
works on. It must not know who logs what.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal, TextIO

#: Of an id that a client sent, which may be any text.
LONGEST_ID = 64
UNUSUAL = re.compile(r"[^A-Za-z0-9._:-]")
#: The keys of an object in a line of JSON, besides the ids; people's tools know the names.
TIME, LEVEL, LOGGER, EVENT, ERROR = "time", "level", "logger", "event", "error"
#: The loggers whose information is written too: ours, and those that tell of a start and of migrations. Others have a
#: line for each request that is sent.
VERBOSE = ("service", "search_spaces", "uvicorn", "alembic")

_ids: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("ids", default=())


@contextmanager
def about(
    *, request: str | None = None, experiment: str | None = None, attempt: str | None = None, trial: str | None = None
) -> Iterator[None]:
    """What is logged in the block has these ids, beside those that it has already."""
    given = {"request": request, "experiment": experiment, "attempt": attempt, "trial": trial}
    known = {name: UNUSUAL.sub("?", one[:LONGEST_ID]) for name, one in given.items() if one is not None}
    token = _ids.set(tuple({**dict(_ids.get()), **known}.items()))
    try:
        yield
    finally:
        _ids.reset(token)


def configure(stream: TextIO, form: Literal["text", "json"]) -> None:
    """Write every record of VERBOSE, and the warnings of all other libraries, to the stream."""
    logging.basicConfig(level=logging.WARNING, handlers=[handler(stream, form)])
    for name in VERBOSE:
        logging.getLogger(name).setLevel(logging.INFO)


def handler(stream: TextIO, form: Literal["text", "json"]) -> logging.Handler:
    """Writes each record to the stream."""
    made = logging.StreamHandler(stream)
    made.setFormatter(_FORMATTERS[form]())
    return made


class TextFormatter(logging.Formatter):
    """For people. A message of several lines is indented, so that none of them looks like another record."""

    def format(self, record: logging.LogRecord) -> str:
        ids = " ".join(f"{name}={one}" for name, one in _ids.get())
        message = record.getMessage().replace("\n", "\n  ")
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {message}{ids and f' [{ids}]'}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """For programs: one line with one object for each record, also for one with a traceback. Times are in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            TIME: datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            LEVEL: record.levelname.lower(),
            LOGGER: record.name,
            EVENT: record.getMessage(),
            **dict(_ids.get()),
        }
        if record.exc_info:
            entry[ERROR] = self.formatException(record.exc_info)
        return json.dumps(entry)


_FORMATTERS: dict[str, type[logging.Formatter]] = {"text": TextFormatter, "json": JsonFormatter}
