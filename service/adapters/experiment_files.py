"""ExperimentFiles: an experiment's folder as the service sees it: how large it is, what its logs say, and its end.

Its layout is that of `search_spaces.layout`; drivers and trials write it. Whatever is there may vanish or grow while it
is looked at. It must not know the database, nor who asks.
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

MAX_CHUNK_BYTES = 2**20


class FileKind(StrEnum):
    """What a file is for."""

    CHECKPOINTS = "checkpoints"
    MODEL = "model"
    LOGS = "logs"
    PLOTS = "pictures"  # the name that stored folders and the API have
    JOURNAL = "journal"
    DAMAGED = "damaged"  # set aside of a journal
    OTHER = "other"


#: What is of no use once nobody will go on with the experiment or look for what went wrong.
DISPOSABLE = frozenset({FileKind.CHECKPOINTS, FileKind.LOGS, FileKind.PLOTS, FileKind.DAMAGED})


@dataclass(frozen=True)
class TextChunk:
    """A part of a log. Offsets and sizes are in bytes; `next_offset` is where the next piece begins."""

    text: str
    offset: int
    next_offset: int
    size: int


@dataclass(frozen=True)
class ExperimentFiles:
    """The folder of one experiment. It need not be there."""

    folder: Path

    def driver_log(self, attempt: int) -> Path:
        return ExperimentFolder(self.folder).driver_log(attempt)

    def trial_log(self, trial: int) -> Path:
        return ExperimentFolder(self.folder).trial(trial).log

    def trial_spec(self, trial: int) -> str | None:
        """What a trial runs, as its driver wrote it; None where that is not there."""
        try:
            return ExperimentFolder(self.folder).trial(trial).spec.read_text()
        except (OSError, UnicodeDecodeError):
            return None

    def sizes(self) -> dict[FileKind, int]:
        """Bytes by kind; every kind is there. A file with several names is counted once."""
        sizes = dict.fromkeys(FileKind, 0)
        seen: set[tuple[int, int]] = set()
        for path, status in self._files():
            place = (status.st_dev, status.st_ino)
            if status.st_nlink == 1 or place not in seen:
                sizes[file_kind(path.relative_to(self.folder))] += status.st_size
            seen.add(place)
        return sizes

    def remove_launch_config(self, attempt: int) -> None:
        """Remove what a driver was told at its start, a password among it; no other reads it. Raises OSError."""
        ExperimentFolder(self.folder).launch_config(attempt).unlink(missing_ok=True)

    def remove_disposable(self) -> int:
        """Remove all DISPOSABLE; what tells the story and the model stay. Gives the bytes freed. Raises OSError."""
        return self._remove(lambda path: file_kind(path) in DISPOSABLE)

    def remove_checkpoints(self, policy: CheckpointPolicy, best: int | None, winner_registered: bool) -> int:
        """Remove the checkpoints that `kept_checkpoints` does not keep: every trial has ended.

        Gives the bytes freed. Raises OSError.
        """
        folder = ExperimentFolder(self.folder)
        winner = None if best is None else folder.trial(best).root.relative_to(self.folder)

        def passing(path: PurePath) -> bool:
            kept = kept_checkpoints(policy, is_best=path.parent == winner, registered=winner_registered)
            return file_kind(path) is FileKind.CHECKPOINTS and path.name not in kept

        return self._remove(passing)

    def remove(self) -> None:
        """Remove everything; nothing happens where nothing is. Raises OSError where that is not allowed."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _remove(self, passing: Callable[[PurePath], bool]) -> int:
        freed = 0
        for path, status in self._files():
            if passing(path.relative_to(self.folder)):
                path.unlink(missing_ok=True)
                freed += status.st_size
        return freed

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for parent, _, names in os.walk(self.folder):
            for name in names:
                path = Path(parent, name)
                try:
                    yield path, path.lstat()
                except FileNotFoundError:  # removed meanwhile
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
    """At most `limit` bytes of a log from an offset on, as text. Raises FileNotFoundError.

    No character is cut in two: one that is not whole yet is left to the next piece, unless nobody will complete it
    (`final`). What is no UTF-8 is replaced.
    """
    with log.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(min(offset, size))  # a file system refuses what is beyond its largest file
        return decode_chunk(file.read(limit), offset, size, final)


def decode_chunk(data: bytes, offset: int, size: int, final: bool) -> TextChunk:
    """The bytes at an offset of a log of `size` as a piece; see `read`."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=final and offset + len(data) >= size)
    pending, _ = decoder.getstate()
    return TextChunk(text, offset, offset + len(data) - len(pending), size)


def read_tail(log: Path, most: int) -> str:
    """The last bytes of a log as text; empty where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def free_bytes(root: Path) -> int | None:
    """Bytes that may still be written below a folder; None where that cannot be told."""
    try:
        return shutil.disk_usage(root).free
    except OSError:
        return None
