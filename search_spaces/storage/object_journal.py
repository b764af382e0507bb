"""Journal as objects of a bucket: one object for each line, whose key is the number of the line (from 0).

Owns the fence: a line is created only if there is none of its number. A writer knows the next number, so it cannot add
a line after a later writer has: its number is taken. CHUNK_LINES lines are merged into one object once they are
complete, and their own objects are deleted, except the first of each writer: a writer that was suspended would
otherwise find its number free.

A line is written once and stays, and its number is its offset. Lines that are missing or damaged are lost with all
after them: the first line of the next writer says in `cut` from which number on, and reading continues there. It must
not know what an entry means.
"""

from __future__ import annotations

import json
import logging
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from errno import EFBIG, EIO

from search_spaces.storage.base import (
    BEGINNING,
    BLOCK_BYTES,
    DocumentTooLargeError,
    Entry,
    JournalDamagedError,
    Position,
    WriterFencedError,
)
from search_spaces.storage.bucket import Bucket
from search_spaces.storage.object_artifacts import check_exists, unless_removed

FOLDER = "journal"
#: How the names of the objects begin; a number follows. In their order, the chunks are before the lines.
CHUNK, LINE, DIGITS = "journal-chunk-", "journal-line-", 12
FIRST = f"{FOLDER}/{LINE}"  # before the first line
#: A chunk is written and read at once.
CHUNK_LINES = 256
MAX_LINE_BYTES = 2**28  # as in a folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Line:
    """`first`: its writer had written none before. `cut`: the lines from there on to this one are lost."""

    number: int
    writer: int
    first: bool
    entries: list[Entry]
    cut: int | None = None

    @property
    def checksum(self) -> int:
        return zlib.crc32(self.encoded())

    def encoded(self) -> bytes:
        fields = {"line": self.number, "by": self.writer, "first": self.first, "entries": self.entries, "cut": self.cut}
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def decoded(content: bytes) -> Line | None:
    """None for something else than a line."""
    try:
        match json.loads(content):
            case {
                "line": int(number),
                "by": int(writer),
                "first": bool(first),
                "entries": list(entries),
                "cut": None | int() as cut,
            }:
                return Line(number, writer, first, entries, cut)
    except ValueError:
        pass
    return None


@dataclass(frozen=True)
class _Loaded:
    """The lines that can be read, by number; those of `unmerged` are in no chunk. `end` is the next free number."""

    lines: Mapping[int, Line]
    unmerged: set[int]
    end: int


@dataclass(frozen=True)
class ObjectJournal:
    """The journal of the experiment at `bucket`."""

    bucket: Bucket

    def exists(self) -> bool:
        return any(True for _ in self.bucket.objects(FOLDER))

    def open_writer(self, writer: int) -> ObjectJournalWriter:
        return ObjectJournalWriter(self, writer)

    def read(self, after: Position = BEGINNING, limit_bytes: int = BLOCK_BYTES) -> tuple[list[Entry], Position]:
        lines, is_end = self._next_lines(after.offset, limit_bytes)
        if is_end:
            return [], after
        found = _in_order(lines, after.offset) or _in_order(self.load().lines, after.offset)
        if not found:
            raise self._damaged(after.offset)
        writer = max(after.writer, *(line.writer for line in found))
        return _entries(found, after.writer), Position(found[-1].number + 1, writer, found[-1].checksum)

    def entries(self) -> Iterator[Entry]:
        loaded = self.load()
        found = _in_order(loaded.lines)
        if (end := _end(found)) < loaded.end:
            raise self._damaged(end)
        return iter(_entries(found, BEGINNING.writer))

    def stands(self, position: Position) -> bool:
        if not position.offset:
            return True
        before = next((line for line in _in_order(self.load().lines) if line.number == position.offset - 1), None)
        return before is not None and position.checksum in (None, before.checksum)

    def load(self) -> _Loaded:
        chunks, single = list[int](), list[int]()
        for found in self.bucket.objects(FOLDER):
            kind, number = _kind_and_number(found.key)
            (chunks if kind == CHUNK else single).append(number)
        merged = self._chunks(chunks)
        alone = self._lines(number for number in single if number not in merged)
        if lost := {number // CHUNK_LINES for number in single if number not in merged and number not in alone}:
            merged |= self._chunks(lost)  # merged meanwhile
        return _Loaded(merged | alone, alone.keys() - merged.keys(), max([*merged, *single], default=-1) + 1)

    def _next_lines(self, start: int, limit_bytes: int) -> tuple[Mapping[int, Line], bool]:
        """Lines from `start` on, about `limit_bytes` of them or a chunk, and whether there is none yet."""
        run, size = list[int](), 0
        listed = list(self.bucket.objects(FOLDER, after=f"{FOLDER}/{LINE}{start - 1:0{DIGITS}d}" if start else FIRST))
        for found in listed:
            number = _kind_and_number(found.key)[1]
            if number != start + len(run) or (run and size + found.size_bytes > limit_bytes):
                break
            run.append(number)
            size += found.size_bytes
        if start in (lines := self._lines(run)):
            return lines, False
        lines = self._chunks([start // CHUNK_LINES])
        return lines, not listed and max(lines, default=-1) < start

    def _lines(self, numbers: Iterable[int]) -> dict[int, Line]:
        found = (decoded(content or b"") for content in self.bucket.get_all(map(line_key, numbers)))
        return {line.number: line for line in found if line is not None}

    def _chunks(self, numbers: Iterable[int]) -> dict[int, Line]:
        contents = self.bucket.get_all(map(chunk_key, numbers))
        found = (decoded(line) for content in contents for line in (content or b"").splitlines())
        return {line.number: line for line in found if line is not None}

    def _damaged(self, number: int) -> JournalDamagedError:
        address = self.bucket.address(line_key(number))
        return JournalDamagedError(f"{address}: it is missing or is not what was written; the next attempt repairs it")


class ObjectJournalWriter:
    """Safe to use from several threads of one process. Raises OSError and WriterFencedError."""

    def __init__(self, journal: ObjectJournal, writer: int) -> None:
        check_exists(journal.bucket)
        loaded = journal.load()
        found = _in_order(loaded.lines)
        self._bucket = journal.bucket
        self._writer = writer
        self._lock = threading.Lock()
        self._next = loaded.end
        self._cut = end if (end := _end(found)) < loaded.end else None
        self._has_written = False
        self._unsure: bytes | None = None  # a line that may be there, although its request has failed
        self._unmerged = {number: loaded.lines[number] for number in sorted(loaded.unmerged)}
        if later := max((line.writer for line in loaded.lines.values() if line.writer > writer), default=0):
            raise self._fenced(later)
        if self._cut is not None:
            log.warning("%s is damaged: what follows entry %d is lost", self._bucket.address(FOLDER), self._cut)

    def append(self, entry: Entry, sync: bool = False) -> None:
        """An object always survives a power failure."""
        self.append_all([entry])

    def append_all(self, entries: Sequence[Entry]) -> None:
        with self._lock:
            line = self._create(list(entries))
            self._has_written, self._cut, self._unsure = True, None, None
            self._next = line.number + 1
            self._unmerged[line.number] = line
            if self._next % CHUNK_LINES == 0:
                self._merge()

    def check_not_fenced(self) -> None:
        with self._lock:
            try:
                _, content = self._bucket.get(line_key(self._next))
            except FileNotFoundError:
                return
            other = decoded(content or b"")
            if other and other.writer > self._writer:
                raise self._fenced(other.writer)

    def close(self) -> None:
        """Nothing is open."""

    def _create(self, entries: list[Entry]) -> Line:
        """Create the next line; the first one is behind those that an earlier writer has added meanwhile."""
        number = self._next
        while True:
            line = Line(number, self._writer, not self._has_written, entries, self._cut)
            content = line.encoded()
            if len(content) > MAX_LINE_BYTES:
                raise DocumentTooLargeError(
                    EFBIG, f"a line must have at most {MAX_LINE_BYTES} bytes", self._address(number)
                )
            try:
                with unless_removed(self._bucket, line_key(number)):
                    earlier, self._unsure = self._unsure, content
                    self._bucket.create(line_key(number), content)
                return line
            except FileExistsError:
                found, present = self._bucket.get(line_key(number))
                if present == content:  # the library has repeated a request that had succeeded
                    return line
                if present == earlier:  # its caller was told that it was not added
                    self._bucket.replace(found, content)
                    return line
                other = decoded(present or b"")
                self._unsure = earlier
                if other and (other.writer > self._writer or self._has_written):
                    raise self._fenced(other.writer) from None
                if other is None:
                    raise OSError(EIO, "it is not what was written", self._address(number)) from None
                self._unmerged[number] = other
                number += 1

    def _merge(self) -> None:
        """Merge the complete chunks. Where that fails, the lines stay as they are until the next chunk is complete."""
        try:
            for chunk in sorted({number // CHUNK_LINES for number in self._unmerged}):
                numbers = range(chunk * CHUNK_LINES, (chunk + 1) * CHUNK_LINES)
                if numbers.stop <= self._next:
                    lines = [self._unmerged[number] for number in numbers if number in self._unmerged]
                    with unless_removed(self._bucket, chunk_key(chunk)):
                        self._bucket.put(chunk_key(chunk), b"".join(line.encoded() for line in lines))
                    self._bucket.delete([line_key(line.number) for line in lines if not line.first])
                    for line in lines:
                        del self._unmerged[line.number]
        except OSError as error:
            log.warning("the journal could not be merged: %s", error)

    def _fenced(self, later: int) -> WriterFencedError:
        journal = self._bucket.address(FOLDER)
        return WriterFencedError(f"{journal}: writer {later} has started, so writer {self._writer} must not write")

    def _address(self, number: int) -> str:
        return self._bucket.address(line_key(number))


def line_key(number: int) -> str:
    return f"{FOLDER}/{LINE}{number:0{DIGITS}d}"


def chunk_key(number: int) -> str:
    return f"{FOLDER}/{CHUNK}{number:0{DIGITS}d}"


def _kind_and_number(key: str) -> tuple[str, int]:
    name = key.removeprefix(f"{FOLDER}/")
    return name[:-DIGITS], int(name[-DIGITS:])


def _in_order(lines: Mapping[int, Line], start: int = 0) -> list[Line]:
    """The lines from `start` on up to the first that is lost, unless a later one says that it is."""
    cuts = {line.cut: line for line in lines.values() if line.cut is not None}
    found: list[Line] = []
    while line := cuts.get(start) or lines.get(start):
        found.append(line)
        start = line.number + 1
    return found


def _end(lines: list[Line]) -> int:
    return lines[-1].number + 1 if lines else 0


def _entries(lines: Iterable[Line], writer: int) -> list[Entry]:
    """Those of lines after lines of `writer`, except what a writer has added after a later one."""
    entries: list[Entry] = []
    for line in lines:
        if line.writer >= writer:
            writer = line.writer
            entries += line.entries
    return entries
