"""Journal: the driver's own memory, one JSON line for each thing that happened, in the experiment's folder.

Owns the file `journal.jsonl`, its copy `journal.copy.jsonl`, and their durability: an entry that `append` has
returned is there after the process is killed; a line cut short by a crash is dropped at the next opening, and
what one of the files has lost is put back from the other, byte by byte, so that offsets stay true. Everything
else the driver knows is a fold over these entries, and MLflow is fed from them, so no other file needs to
agree with it. Each line carries the number of its writer: what a writer adds after a later one has begun is
void, so that a driver that was given up and still lives changes nothing. It also carries its number among
those of its writer, by which a loss is seen, and a checksum. What both files have lost cannot be made up: from
there on all is set aside at the next opening, as `journal.damaged-<n>` (from 1), and the driver goes on from what
is left, which is the truth as it was before. It must not know what an entry means.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

from search_spaces.storage.atomic import atomic_write

Entry = dict[str, Any]

log = logging.getLogger("rung.journal")


QUARANTINE = "journal.damaged-{}"
_CHECKSUM = re.compile(rb',"crc":(0|[1-9]\d{0,9})\}\n\Z')
_MARKED_BYTES = 256


class JournalDamagedError(Exception):
    """A line is not what was written. The next opening of the journal mends the file."""


class WriterFencedError(Exception):
    """A later writer has begun: this one must neither heal the files nor add to them."""


class Journal:
    """An append-only file of entries, and its copy. Safe to append to from several threads of one process.

    `writer` (from 1) grows from one process that opens the file to the next; its first entry takes over.
    Opening heals. Raises OSError, and WriterFencedError.
    """

    def __init__(self, path: Path, writer: int = 1) -> None:
        self._path = path
        self._writer = writer
        self._lock = threading.Lock()
        self._nth = _heal(path, writer)[writer]
        self._files = [one.open("a+b", buffering=0) for one in (path, copy_of(path))]
        self._end = path.stat().st_size

    def append(self, entry: Entry, sync: bool = False) -> None:
        """Write one entry; `sync` waits until it would survive a power failure.

        Raises OSError on a full disk, and WriterFencedError when a later writer has begun; nothing is written then.
        """
        with self._lock:
            line = _line(entry | {"by": self._writer, "nth": self._nth})
            starts = [file.seek(0, os.SEEK_END) for file in self._files]
            self._check_not_fenced(starts[0])
            try:
                for file in self._files:
                    written = file.write(line)
                    if written != len(line):
                        raise OSError(f"{file.name}: wrote {written} of {len(line)} bytes; the disk may be full")
                if sync:
                    os.fsync(self._files[0].fileno())  # the copy is made up from it
            except OSError:
                for file, start in zip(self._files, starts, strict=True):
                    _take_back(file, start, line)
                raise
            self._nth += 1
            self._end = starts[0] + len(line)

    def append_all(self, entries: list[Entry]) -> None:
        """Write several entries in one line: after a crash all of them are there, or none. Raises as `append`."""
        self.append({"entries": entries}, sync=True)

    def check_not_fenced(self) -> None:
        """Before what needs no entry: raises WriterFencedError when a later writer has begun, and OSError."""
        with self._lock:
            self._check_not_fenced(self._files[0].seek(0, os.SEEK_END))

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _check_not_fenced(self, end: int) -> None:
        """Where somebody else has written: whoever slept meanwhile learns here that another goes on in its place."""
        if end == self._end:
            return
        with self._path.open("rb") as file:
            file.seek(self._end)
            others = [entry["by"] for line in file if (entry := _entry(line))]
        if max(others, default=0) > self._writer:
            raise WriterFencedError(f"{self._path}: writer {max(others)} has begun, and {self._writer} comes too late")


def copy_of(path: Path) -> Path:
    """Where a journal's copy lies."""
    return path.with_suffix(f".copy{path.suffix}")


def read(path: Path, offset: int = 0, writer: int = 0, limit_bytes: int = 1 << 20) -> tuple[list[Entry], int, int]:
    """Whole entries from a byte offset on, about `limit_bytes` of them; the offset after the last; its writer.

    `writer` is the latest one before the offset. Reads while another thread appends: a last line without its
    end is left for the next call. Raises JournalDamagedError.
    """
    if not path.exists():
        return [], offset, writer
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(limit_bytes)
        if block and b"\n" not in block:
            block += file.readline()
    end = block.rfind(b"\n") + 1
    valid: list[Entry] = []
    for line in block[:end].splitlines(keepends=True):
        entry = _entry(line)
        if entry is None:
            raise JournalDamagedError(f"{path}: {line[:60]!r}... is not what was written; the next attempt mends it")
        by = entry.pop("by")
        del entry["nth"]
        if by >= writer:
            writer = by
            valid.extend(entry.get("entries", [entry]))
    return valid, offset + end, writer


def entries(path: Path) -> Iterator[Entry]:
    """All valid entries from the beginning."""
    offset = writer = 0
    while True:
        batch, end, writer = read(path, offset, writer)
        if end == offset:
            return
        yield from batch
        offset = end


def checksum_at(path: Path, offset: int) -> int:
    """A number that tells whether a byte offset taken earlier still stands behind the same entry; 0 at the beginning.

    It does not once the file was cut before it, whatever was appended since: each line ends with its checksum.
    """
    if offset == 0 or not path.exists():
        return 0
    with path.open("rb") as file:
        start = max(0, offset - _MARKED_BYTES)
        file.seek(start)
        content = file.read(offset - start)
    return zlib.crc32(content) if len(content) == offset - start else -1


def _take_back(file: BinaryIO, start: int, line: bytes) -> None:
    """Undo what was written of a line, unless somebody else has written at or behind its start."""
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


def _heal(path: Path, writer: int) -> Counter[int]:
    """Give the journal and its copy every line that either has, up to the first that neither has.

    Touches no file that is right. Gives the number of lines by writer. Raises WriterFencedError.
    """
    content = {file: file.read_bytes() for file in (path, copy_of(path)) if file.exists()}
    found = [said.splitlines(keepends=True) for said in content.values()]
    latest = max((entry["by"] for some in found for entry in map(_entry, some) if entry), default=0)
    if latest > writer:
        raise WriterFencedError(f"{path}: writer {latest} has begun, and {writer} comes too late")
    if len(found) == 2:
        lines = _merged(*([line for line in some if _entry(line)] for some in found))
    else:
        lines = list(takewhile(_entry, *found)) if found else []
    counts, unbroken = _unbroken(lines)
    kept = b"".join(lines[:unbroken])
    if unbroken < len(lines) or (len(found) == 1 and any(line.endswith(b"\n") for line in found[0][unbroken:])):
        _quarantine(path, max(content.values(), key=len)[len(kept) :])
        log.warning("%s is cut at byte %d: what was there is lost, and what came after it set aside", path, len(kept))
    for file in (path, copy_of(path)):
        said = content.get(file, b"")
        if said != kept:
            log.warning("%s has %d bytes, and gets the %d that it should have", file, len(said), len(kept))
            atomic_write(file, kept)
    return counts


def _unbroken(lines: Iterable[bytes]) -> tuple[Counter[int], int]:
    """How many lines, by writer and together, there are before the first of whose writer one is missing."""
    counts: Counter[int] = Counter()
    unbroken = 0
    for entry in filter(None, map(_entry, lines)):
        if entry["nth"] != counts[entry["by"]]:
            break
        counts[entry["by"]] += 1
        unbroken += 1
    return counts, unbroken


def _quarantine(path: Path, content: bytes) -> None:
    taken = (int(part.suffix.rpartition("-")[2]) for part in path.parent.glob(QUARANTINE.format("*[0-9]")))
    atomic_write(path.with_name(QUARANTINE.format(1 + max(taken, default=0))), content)


def _merged(one: list[bytes], two: list[bytes]) -> list[bytes]:
    """The lines of both, each once, in the order that they have in both."""
    place = {line: index for index, line in enumerate(one)}
    merged: list[bytes] = []
    done = 0
    for line in two:
        if line in place:
            end = max(done, place[line] + 1)
            merged += one[done:end]
            done = end
        else:
            merged.append(line)
    return merged + one[done:]
