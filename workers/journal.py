"""Journal: the driver's own memory, one JSON line for each thing that happened, in the experiment's folder.

Owns the file `journal.jsonl` and its durability: an entry that `append` has returned is there after the
process is killed; a line cut short by a crash is dropped at the next opening. Everything else the driver
knows is a fold over these entries, and MLflow is fed from them, so no other file needs to agree with it.
Each line carries the number of its writer: what a writer adds after a later one has begun is void, so that
a driver that was given up and still lives changes nothing. It must not know what an entry means.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Journal:
    """An append-only file of entries. Safe to append to from several threads of one process.

    `writer` (from 1) grows from one process that opens the file to the next; its first entry takes over.
    """

    def __init__(self, path: Path, writer: int = 1) -> None:
        self._path = path
        self._writer = writer
        self._lock = threading.Lock()
        _drop_torn_line(path)
        self._file = path.open("ab", buffering=0)

    def append(self, entry: Entry, sync: bool = False) -> None:
        """Write one entry; `sync` waits until it would survive a power failure. Raises OSError on a full disk."""
        line = json.dumps(entry | {"by": self._writer}, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            start = self._file.seek(0, os.SEEK_END)
            try:
                written = self._file.write(line)
                if written != len(line):
                    raise OSError(f"{self._path}: wrote {written} of {len(line)} bytes; the disk may be full")
            except OSError:
                self._file.truncate(start)
                raise
            if sync:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read(path: Path, offset: int = 0, writer: int = 0, limit_bytes: int = 1 << 20) -> tuple[list[Entry], int, int]:
    """Whole entries from a byte offset on, about `limit_bytes` of them; the offset after the last; its writer.

    `writer` is the latest one before the offset. Reads while another thread appends: a last line without its
    end is left for the next call.
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
    for line in block[:end].splitlines():
        entry = json.loads(line)
        by = entry.pop("by")
        if by >= writer:
            writer = by
            valid.append(entry)
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


def _drop_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        content_end = file.seek(0, os.SEEK_END)
        position = content_end
        while position > 0:
            step = min(position, 1 << 16)
            file.seek(position - step)
            newline = file.read(step).rfind(b"\n")
            if newline >= 0:
                position += newline + 1 - step
                break
            position -= step
        if position != content_end:
            file.truncate(position)
