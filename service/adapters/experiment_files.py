"""ExperimentFiles: the files of one experiment, as the service uses them: launch, logs, trial specs, sizes, removal.

Owns every access of the service to them, through the storage seam. `search_spaces.layout` has their names; drivers and
trials write most of them. Files may disappear or grow at any time. It must not know how they are stored, the database,
or who asks.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import PurePath
from typing import Any

from search_spaces.checkpoint_policy import CheckpointPolicy, kept_checkpoints
from search_spaces.datasets.report import DataReport
from search_spaces.insight import Insight
from search_spaces.layout import DAMAGED_JOURNAL_PREFIX, NAMES
from search_spaces.protocol import LaunchConfig
from search_spaces.storage.base import ArtifactStore, ExperimentStorage, open_storage, read_document
from search_spaces.tracking_record import TrackingRecord

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
class TrackedRuns:
    """Where an experiment's curves are in MLflow: the experiment there, the parent run, and the trial of each run."""

    mlflow_experiment: str | None
    parent: str | None
    trials: Mapping[str, int]


NOT_TRACKED = TrackedRuns(None, None, {})


@dataclass(frozen=True)
class ExperimentFiles:
    """The files of the experiment whose storage has this address. It may not exist."""

    address: str

    def write_launch(self, launch: LaunchConfig, spec: dict[str, Any]) -> None:
        """Write what a driver reads at its start. May be repeated. Raises OSError."""
        self._storage.create()
        for name, content in (
            (NAMES.marker, launch.marker),
            (NAMES.spec, json.dumps(spec, indent=2)),
            (NAMES.launch_config(launch.attempt), launch.model_dump_json(indent=2)),
        ):
            self._artifacts.write(name, content.encode(), private=True)

    def remove_launch_config(self, attempt: int) -> None:
        """Remove the launch file of a driver. It may hold a password, and nothing else reads it. Raises OSError."""
        self._artifacts.remove(NAMES.launch_config(attempt))

    def driver_log(self, attempt: int, offset: int, limit: int, final: bool) -> TextChunk:
        """A chunk of the log of an attempt; see `decode_chunk`. Raises OSError."""
        return self._chunk(NAMES.driver_log(attempt), offset, limit, final)

    def driver_log_end(self, attempt: int, max_bytes: int) -> str:
        """The last bytes of the log of an attempt; empty if it cannot be read."""
        try:
            with self._artifacts.open_reader(NAMES.driver_log(attempt)) as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - max_bytes))
                return log.read(max_bytes).decode("utf-8", "replace")
        except OSError:
            return ""

    def trial_log(self, trial: int, offset: int, limit: int, final: bool) -> TextChunk:
        """A chunk of the log of a trial; see `decode_chunk`. Raises OSError."""
        return self._chunk(NAMES.trial(trial).log, offset, limit, final)

    def trial_spec(self, trial: int) -> str | None:
        """The spec of a trial, as its driver wrote it; None if it cannot be read."""
        try:
            with self._artifacts.open_reader(NAMES.trial(trial).spec) as spec:
                return spec.read(MAX_CHUNK_BYTES).decode()
        except (OSError, UnicodeDecodeError):
            return None

    def data_report(self) -> DataReport | None:
        """What the trials found the data set to be; None before one has read it. Raises OSError, ValueError."""
        try:
            return DataReport.model_validate_json(read_document(self._artifacts, NAMES.data_report))
        except FileNotFoundError:
            return None

    def insight(self) -> Insight | None:
        """Why the winner won; None where that was not computed. Raises OSError, ValueError."""
        try:
            return Insight.model_validate_json(read_document(self._artifacts, NAMES.insight_report))
        except FileNotFoundError:
            if not self._artifacts.exists(NAMES.spec):  # no launch wrote here, or the storage is not mounted
                raise
            return None

    def tracked_runs(self) -> TrackedRuns:
        """The runs in MLflow that the drivers recorded; none where that cannot be read. Raises OSError."""
        stored = TrackingRecord.read(self._artifacts, self.address.rpartition("/")[2])
        if stored is None:
            return NOT_TRACKED
        return TrackedRuns(stored.experiment, stored.parent, {run: number for number, run in stored.runs.items()})

    def sizes(self) -> dict[FileKind, int]:
        """Bytes of every kind. A file with several names is counted once."""
        sizes = dict.fromkeys(FileKind, 0)
        for file in self._artifacts.list():
            sizes[file_kind(file.name)] += file.size_bytes
        return sizes

    def free_bytes(self) -> int | None:
        """Bytes that can still be written; None if unknown or unlimited."""
        return self._storage.free_bytes()

    def remove_disposable(self) -> int:
        """Remove all DISPOSABLE files; journals and models stay. Returns the bytes freed. Raises OSError."""
        return self._remove(lambda name: file_kind(name) in DISPOSABLE)

    def remove_checkpoints(self, policy: CheckpointPolicy, best: int | None, winner_registered: bool) -> int:
        """Remove the checkpoints that `kept_checkpoints` does not keep. No trial may be resumed afterwards.

        Returns the bytes freed. Raises OSError.
        """
        winner = None if best is None else NAMES.trial(best).root

        def removable(name: PurePath) -> bool:
            kept = kept_checkpoints(policy, is_best=name.parent == winner, registered=winner_registered)
            return file_kind(name) is FileKind.CHECKPOINTS and name.name not in kept

        return self._remove(removable)

    def remove_untracked(self) -> None:
        """Remove all files except what `tracked_runs` reads. Does nothing if there is nothing. Raises OSError."""
        self._remove(lambda name: name != NAMES.tracking)

    def remove(self) -> None:
        """Remove everything. Does nothing if there is nothing. Raises OSError."""
        self._storage.remove()

    @cached_property
    def _storage(self) -> ExperimentStorage:
        return open_storage(self.address)

    @property
    def _artifacts(self) -> ArtifactStore:
        return self._storage.artifacts

    def _chunk(self, name: PurePath, offset: int, limit: int, final: bool) -> TextChunk:
        with self._artifacts.open_reader(name) as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(min(offset, size))  # file systems refuse offsets beyond their largest file
            return decode_chunk(log.read(limit), offset, size, final)

    def _remove(self, removable: Callable[[PurePath], bool]) -> int:
        freed = 0
        for file in self._artifacts.list():
            if removable(file.name):
                self._artifacts.remove(file.name)
                freed += file.size_bytes
        return freed


def free_bytes_of_root(root: str) -> int | None:
    """Bytes that can still be written to the storage root; None if unknown or unlimited. Raises OSError."""
    return open_storage(f"{root}/new").free_bytes()  # of an experiment that does not exist


def file_kind(name: PurePath) -> FileKind:
    """What a file is for."""
    if name.suffix == ".log":
        return FileKind.LOGS
    if name.parts[0] in {"model", "pictures", "logs"}:
        return FileKind(name.parts[0])
    if name.parts[0] == "trials" and ".pt" in name.suffixes:
        return FileKind.CHECKPOINTS
    if name.name.startswith(DAMAGED_JOURNAL_PREFIX):
        return FileKind.DAMAGED
    if name.name.startswith(("journal", "tracking")):
        return FileKind.JOURNAL
    return FileKind.OTHER


def decode_chunk(data: bytes, offset: int, size: int, final: bool) -> TextChunk:
    """The bytes at an offset of a log of `size` bytes, as text.

    No character is split: an incomplete one at the end is left to the next chunk, unless the log is `final`. Invalid
    UTF-8 is replaced.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=final and offset + len(data) >= size)
    pending, _ = decoder.getstate()
    return TextChunk(text, offset, offset + len(data) - len(pending), size)
