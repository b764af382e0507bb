"""Folder journal: a file of JSON lines and its copy, in the experiment's folder.

Owns the two files and their durability: an entry that `append` has returned survives the end of the process. Opening
a writer repairs them: an incomplete last line is dropped, and what one file has lost is restored from the other, byte
by byte, so that offsets stay valid. What both have lost is gone: all entries from there on are moved to a file
`journal.damaged-<n>` (n from 1), and the journal continues with the entries before. A link or a named pipe in the place
of a file counts as a file that was lost. Files are read by line, with a bound for a line and for a file: code that
trains can write anything there, also a sparse file of any size.

Each line ends with the number of its writer (`by`), its own number among that writer's lines (`nth`, by which a loss is
detected) and a checksum (`crc`). Lines of a writer after the first line of a later one are void. It must not know what
an entry means.
"""

from __future__ import annotations

import errno
import json
import logging
import mmap
import os
import re
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal

from search_spaces.layout import DAMAGED_JOURNAL_PREFIX
from search_spaces.storage.atomic import SHARED, atomic_write
from search_spaces.storage.base import (
    BEGINNING,
    BLOCK_BYTES,
    DocumentTooLargeError,
    Entry,
    JournalDamagedError,
    Position,
    WriterFencedError,
)
from search_spaces.storage.regular_file import folder_of, is_regular, open_regular

log = logging.getLogger(__name__)

_CHECKSUM = re.compile(rb',"crc":(0|[1-9]\d{0,9})\}\n\Z')
#: A line may hold all that is imported from another experiment, about 250 bytes for each epoch: a million epochs.
MAX_LINE_BYTES = 2**28
MAX_JOURNAL_BYTES = 2**30  # four million epochs, which a driver could hardly keep in memory
_IDENTIFYING_BYTES = 256  # each line ends with its checksum, so the end of a file identifies its content


@dataclass(frozen=True)
class FolderJournal:
    """`path` is the journal, `copy` its copy. Neither needs to exist."""

    path: Path
    copy: Path

    def exists(self) -> bool:
        return is_regular(self.path) or is_regular(self.copy)

    def open_writer(self, writer: int) -> FolderJournalWriter:
        return FolderJournalWriter(self, writer)

    def read(self, after: Position = BEGINNING, limit_bytes: int = BLOCK_BYTES) -> tuple[list[Entry], Position]:
        return _read(self.path, after, limit_bytes)

    def entries(self) -> Iterator[Entry]:
        found = list(_content(self).values())
        valid = [one.valid for one in found]
        lines = _merged(*valid) if len(valid) == 2 else list(chain(*valid))
        all_damaged = all(len(one.valid) < one.complete for one in found)
        most = max((one.complete for one in found), default=0)
        if _unbroken(lines)[1] < len(lines) or (all_damaged and len(lines) < most):
            raise JournalDamagedError(
                f"{self.path}: an entry is missing or is not what was written; the next attempt repairs it"
            )
        return iter(_decode(self.path, lines, BEGINNING.writer)[0])

    def stands(self, position: Position) -> bool:
        checksum = _checksum_at(self.path, position.offset)
        return checksum is not None and position.checksum in (None, checksum)


class FolderJournalWriter:
    """Safe to use from several threads of one process. Opening repairs. Raises OSError and WriterFencedError."""

    def __init__(self, journal: FolderJournal, writer: int) -> None:
        self._path = journal.path
        self._writer = writer
        self._lock = threading.Lock()
        self._nth = _repair(journal, writer)[writer]
        self._files = [_open(path, "a+b") for path in (journal.path, journal.copy)]
        self._end = self._files[0].seek(0, os.SEEK_END)

    def append(self, entry: Entry, sync: bool = False) -> None:
        with self._lock:
            line = _line(entry | {"by": self._writer, "nth": self._nth})
            starts = [file.seek(0, os.SEEK_END) for file in self._files]
            self._check_not_fenced(starts[0])
            if len(line) > MAX_LINE_BYTES or starts[0] + len(line) > MAX_JOURNAL_BYTES:
                most = f"must have at most {MAX_JOURNAL_BYTES} bytes, and a line {MAX_LINE_BYTES}"
                raise DocumentTooLargeError(errno.EFBIG, most, str(self._path))
            try:
                for file in self._files:
                    written = file.write(line)
                    if written != len(line):
                        wrote = f"wrote {written} of {len(line)} bytes; the disk may be full"
                        raise OSError(errno.ENOSPC, wrote, file.name)
                if sync:
                    os.fsync(self._files[0].fileno())  # the copy can be restored from it
            except OSError:
                for file, start in zip(self._files, starts, strict=True):
                    _take_back(file, start, line)
                raise
            self._nth += 1
            self._end = starts[0] + len(line)

    def append_all(self, entries: Sequence[Entry]) -> None:
        self.append({"entries": list(entries)}, sync=True)

    def check_not_fenced(self) -> None:
        with self._lock:
            self._check_not_fenced(self._files[0].seek(0, os.SEEK_END))

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _check_not_fenced(self, end: int) -> None:
        """If another process has written since: a writer that was suspended learns here that another has started."""
        if end == self._end:
            return
        with _open(self._path) as file:
            file.seek(self._end)
            others = [entry["by"] for line in _lines(file) if (entry := _entry(line))]
        if max(others, default=0) > self._writer:
            raise _fenced(self._path, max(others), self._writer)


def _read(path: Path, after: Position, limit_bytes: int = BLOCK_BYTES) -> tuple[list[Entry], Position]:
    if not is_regular(path):
        return [], after
    with _open(path) as file:
        file.seek(after.offset)
        block = file.read(limit_bytes)
        if len(block) == limit_bytes and b"\n" not in block:
            block += file.readline(MAX_LINE_BYTES) if block.startswith(b"{") else b""
            if not block.startswith(b"{") or (len(block) > MAX_LINE_BYTES and not block.endswith(b"\n")):
                raise JournalDamagedError(f"{path}: {block[:60]!r}... is no line of a journal")
    end = block.rfind(b"\n") + 1
    valid, writer = _decode(path, block[:end].splitlines(keepends=True), after.writer)
    if not end:
        return valid, after
    offset = after.offset + end
    return valid, Position(offset, writer, _checksum_at(path, offset))


def _decode(path: Path, lines: Iterable[bytes], writer: int) -> tuple[list[Entry], int]:
    """The entries of complete lines after those of `writer`, and the latest writer. Raises JournalDamagedError."""
    valid: list[Entry] = []
    for line in lines:
        entry = _entry(line)
        if entry is None:
            raise JournalDamagedError(f"{path}: {line[:60]!r}... is not what was written; the next attempt repairs it")
        by = entry.pop("by")
        del entry["nth"]
        if by >= writer:
            writer = by
            valid.extend(entry.get("entries", [entry]))
    return valid, writer


def _checksum_at(path: Path, offset: int) -> int | None:
    """A number that identifies the content before an offset; None if the file ends before it."""
    if offset == 0:
        return 0
    if not is_regular(path):
        return None
    with _open(path) as file:
        if file.seek(0, os.SEEK_END) < offset:  # file systems refuse offsets beyond their largest file
            return None
        start = max(0, offset - _IDENTIFYING_BYTES)
        file.seek(start)
        content = file.read(offset - start)
    return zlib.crc32(content) if len(content) == offset - start else None


def _take_back(file: BinaryIO, start: int, line: bytes) -> None:
    """Undo what was written of a line, unless another process has written at or after its start."""
    left = os.pread(file.fileno(), len(line) + 1, start)
    if left and line.startswith(left):
        file.truncate(start)


def _line(entry: Entry) -> bytes:
    body = json.dumps(entry, separators=(",", ":")).encode()[:-1]
    return b'%b,"crc":%d}\n' % (body, zlib.crc32(body))


def _entry(line: bytes) -> Entry | None:
    """None for a line that is not, byte for byte, what `_line` made."""
    checksum = _CHECKSUM.search(line)
    if checksum is None or zlib.crc32(body := line[: checksum.start()]) != int(checksum[1]):
        return None
    entry: Entry = json.loads(body + b"}")
    return entry


def _fenced(path: Path, later: int, writer: int) -> WriterFencedError:
    return WriterFencedError(f"{path}: writer {later} has started, so writer {writer} must not write any more")


def _open(path: Path, mode: Literal["rb", "a+b"] = "rb") -> BinaryIO:
    """Raises OSError; NotAFileError for a link or a named pipe."""

    def opener(name: str, flags: int) -> int:
        return open_regular(path.parent, name, flags, SHARED)

    return open(path, mode, buffering=0 if mode == "a+b" else -1, opener=opener)


@dataclass(frozen=True)
class _Content:
    """A file: the lines that are what was written, how many of them come before any other, and how many lines end."""

    size_bytes: int
    valid: list[bytes]
    leading: int
    complete: int


def _content(journal: FolderJournal) -> dict[Path, _Content]:
    """What is in the journal and its copy. Without a file that is missing, or in whose place is something else."""
    return {path: _content_of(path) for path in (journal.path, journal.copy) if is_regular(path)}


def _content_of(path: Path) -> _Content:
    valid: list[bytes] = []
    leading = complete = pieces = 0
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_JOURNAL_BYTES:
            raise DocumentTooLargeError(errno.EFBIG, f"must have at most {MAX_JOURNAL_BYTES} bytes", str(path))
        for line in _lines(file):
            complete += line.endswith(b"\n")
            if _entry(line):
                valid.append(line)
                leading += len(valid) == pieces + 1
            pieces += 1
    return _Content(size, valid, leading, complete)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines from here on. What no journal has, a line that is too long or begins otherwise, comes in pieces."""
    while line := file.readline(BLOCK_BYTES):
        if not line.endswith(b"\n") and line.startswith(b"{"):
            line += file.readline(MAX_LINE_BYTES - len(line))
        yield line


def _repair(journal: FolderJournal, writer: int) -> Counter[int]:
    """Give both files every line that either has, up to the first that neither has.

    Writes no file that is right already. Returns the number of lines by writer. Raises WriterFencedError, OSError.
    """
    path, files = journal.path, (journal.path, journal.copy)
    content = _content(journal)
    found = list(content.values())
    latest = max((entry["by"] for one in found for entry in map(_entry, one.valid) if entry), default=0)
    if latest > writer:
        raise _fenced(path, latest, writer)
    lines = (
        _merged(*(one.valid for one in found))
        if len(found) == 2
        else [line for one in found for line in one.valid[: one.leading]]
    )
    counts, unbroken = _unbroken(lines)
    kept = b"".join(lines[:unbroken])
    if unbroken < len(lines) or (len(found) == 1 and found[0].complete > unbroken):
        _quarantine(path, max(content, key=lambda file: content[file].size_bytes), len(kept))
        log.warning("%s is damaged at byte %d: all entries from there on are lost and set aside", path, len(kept))
    with folder_of(path.parent, path) as folder:
        for file in files:
            present = content.get(file)
            if present and present.size_bytes == len(kept) and present.valid[: present.leading] == lines[:unbroken]:
                continue
            if kept or os.path.lexists(file):
                had = present.size_bytes if present else 0
                log.warning("%s has %d bytes and is restored to %d bytes", file, had, len(kept))
                atomic_write(file, kept, folder=folder)
    return counts


def _unbroken(lines: Iterable[bytes]) -> tuple[Counter[int], int]:
    """How many lines there are, by writer and in total, before the first whose writer lacks an earlier line."""
    counts: Counter[int] = Counter()
    unbroken = 0
    for entry in filter(None, map(_entry, lines)):
        if entry["nth"] != counts[entry["by"]]:
            break
        counts[entry["by"]] += 1
        unbroken += 1
    return counts, unbroken


def _quarantine(path: Path, damaged: Path, start: int) -> None:
    """Set aside what a damaged file has from `start` on."""
    taken = (
        int(file.name.removeprefix(DAMAGED_JOURNAL_PREFIX))
        for file in path.parent.glob(f"{DAMAGED_JOURNAL_PREFIX}*[0-9]")
    )
    target = path.with_name(f"{DAMAGED_JOURNAL_PREFIX}{1 + max(taken, default=0)}")
    with _open(damaged) as file:
        if os.fstat(file.fileno()).st_size <= start:
            atomic_write(target, b"")
            return
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with mapped, memoryview(mapped) as whole, whole[start:] as rest:
            atomic_write(target, rest)


def _merged(ours: list[bytes], theirs: list[bytes]) -> list[bytes]:
    """The lines of both, each once, in the order that they have in both."""
    index = {line: place for place, line in enumerate(ours)}
    merged: list[bytes] = []
    done = 0
    for line in theirs:
        if line in index:
            end = max(done, index[line] + 1)
            merged += ours[done:end]
            done = end
        else:
            merged.append(line)
    return merged + ours[done:]
