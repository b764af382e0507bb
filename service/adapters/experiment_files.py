"""ExperimentFiles: the files of one experiment, as the service uses them: sizes, logs, trial specs and removal.

Owns every access of the service to them. `search_spaces.layout` has their paths; drivers and trials write them. Files
may disappear or grow at any time. It must not know the database, or who asks.
"""

from __future__ import annotations

import codecs
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePath

from search_spaces.layout import DAMAGED_JOURNAL_PREFIX, CheckpointPolicy, ExperimentFolder, kept_checkpoints

MAX_CHUNK_BYTES = 2**20  # of one answer; a log may have gigabytes


class FileKind(StrEnum):
    """What a file is for."""

    CHECKPOINTS = "checkpoints"
    MODEL = "model"
    LOGS = "logs"
    PLOTS = "pictures"  # the name that stored folders and the API have
    JOURNAL = "journal"
    DAMAGED = "damaged"  # a quarantined part of a journal
    OTHER = "other"


#: The kinds that are not needed once nobody will resume the experiment or look for an error.
DISPOSABLE = frozenset({FileKind.CHECKPOINTS, FileKind.LOGS, FileKind.PLOTS, FileKind.DAMAGED})


@dataclass(frozen=True)
class TextChunk:
    """A part of a log. Offsets and sizes are in bytes; `next_offset` is where the next chunk begins."""

    text: str
    offset: int
    next_offset: int
    size: int


@dataclass(frozen=True)
class ExperimentFiles:
    """The files of one experiment. Its folder may not exist."""

    folder: Path

    def driver_log(self, attempt: int, offset: int, limit: int, final: bool) -> TextChunk:
        """A chunk of the log of an attempt; see `read_chunk`. Raises OSError."""
        return read_chunk(ExperimentFolder(self.folder).driver_log(attempt), offset, limit, final)

    def driver_log_end(self, attempt: int, max_bytes: int) -> str:
        """The last bytes of the log of an attempt; empty if it cannot be read."""
        return read_tail(ExperimentFolder(self.folder).driver_log(attempt), max_bytes)

    def trial_log(self, trial: int, offset: int, limit: int, final: bool) -> TextChunk:
        """A chunk of the log of a trial; see `read_chunk`. Raises OSError."""
        return read_chunk(ExperimentFolder(self.folder).trial(trial).log, offset, limit, final)

    def trial_spec(self, trial: int) -> str | None:
        """The spec of a trial, as its driver wrote it; None if it cannot be read."""
        try:
            return ExperimentFolder(self.folder).trial(trial).spec.read_text()
        except (OSError, UnicodeDecodeError):
            return None

    def sizes(self) -> dict[FileKind, int]:
        """Bytes of every kind. A file with several hard links is counted once."""
        sizes = dict.fromkeys(FileKind, 0)
        seen: set[tuple[int, int]] = set()
        for path, status in self._files():
            identity = (status.st_dev, status.st_ino)
            if status.st_nlink == 1 or identity not in seen:
                sizes[file_kind(path.relative_to(self.folder))] += status.st_size
            seen.add(identity)
        return sizes

    def remove_launch_config(self, attempt: int) -> None:
        """Remove the launch file of a driver. It may hold a password, and nothing else reads it. Raises OSError."""
        ExperimentFolder(self.folder).launch_config(attempt).unlink(missing_ok=True)

    def remove_disposable(self) -> int:
        """Remove all DISPOSABLE files; journals and models stay. Returns the bytes freed. Raises OSError."""
        return self._remove(lambda path: file_kind(path) in DISPOSABLE)

    def remove_checkpoints(self, policy: CheckpointPolicy, best: int | None, winner_registered: bool) -> int:
        """Remove the checkpoints that `kept_checkpoints` does not keep. No trial may be resumed afterwards.

        Returns the bytes freed. Raises OSError.
        """
        folder = ExperimentFolder(self.folder)
        winner = None if best is None else folder.trial(best).root.relative_to(self.folder)

        def removable(path: PurePath) -> bool:
            kept = kept_checkpoints(policy, is_best=path.parent == winner, registered=winner_registered)
            return file_kind(path) is FileKind.CHECKPOINTS and path.name not in kept

        return self._remove(removable)

    def remove(self) -> None:
        """Remove everything. Does nothing if the folder does not exist. Raises OSError."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _remove(self, removable: Callable[[PurePath], bool]) -> int:
        freed = 0
        for path, status in self._files():
            if removable(path.relative_to(self.folder)):
                path.unlink(missing_ok=True)
                freed += status.st_size
        return freed

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for parent, _, names in os.walk(self.folder):
            for name in names:
                path = Path(parent, name)
                try:
                    yield path, path.lstat()
                except FileNotFoundError:  # it was removed in the meantime
                    continue


def file_kind(path: PurePath) -> FileKind:
    """What a file is for, by its path inside the folder."""
    if path.suffix == ".log":
        return FileKind.LOGS
    if path.parts[0] in {"model", "pictures", "logs"}:
        return FileKind(path.parts[0])
    if path.parts[0] == "trials" and ".pt" in path.suffixes:
        return FileKind.CHECKPOINTS
    if path.name.startswith(DAMAGED_JOURNAL_PREFIX):
        return FileKind.DAMAGED
    if path.name.startswith(("journal", "tracking")):
        return FileKind.JOURNAL
    return FileKind.OTHER


def read_chunk(log: Path, offset: int, limit: int, final: bool) -> TextChunk:
    """At most `limit` bytes of a log from an offset on, as text. Raises OSError.

    No character is split: an incomplete one at the end is left to the next chunk, unless the log is `final`. Invalid
    UTF-8 is replaced.
    """
    with log.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(min(offset, size))  # file systems refuse offsets beyond their largest file
        return decode_chunk(file.read(limit), offset, size, final)


def decode_chunk(data: bytes, offset: int, size: int, final: bool) -> TextChunk:
    """The bytes at an offset of a log of `size` bytes as a chunk; see `read_chunk`."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=final and offset + len(data) >= size)
    pending, _ = decoder.getstate()
    return TextChunk(text, offset, offset + len(data) - len(pending), size)


def read_tail(log: Path, max_bytes: int) -> str:
    """The last bytes of a log as text; empty if it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - max_bytes))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def free_bytes(root: Path) -> int | None:
    """Free bytes of the disk of a folder; None if unknown."""
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return None
