"""Cursor: up to where MLflow has the journal's events, and in which runs.

Owns when the stored record counts. If it is lost, or the journal was cut since, all events are sent again from the
beginning. It must not know MLflow's client, nor what the events mean.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from search_spaces.layout import NAMES
from search_spaces.storage.base import BEGINNING, ExperimentStorage, Position
from search_spaces.tracking_record import TrackingRecord
from workers.tracking.mlflow_ids import NO_IDS, MlflowIds

log = logging.getLogger(__name__)

NAME = NAMES.tracking


@dataclass(frozen=True)
class JournalCursor:
    """All events before `position` are in MLflow, in the runs `ids`."""

    position: Position = BEGINNING
    ids: MlflowIds = NO_IDS

    @classmethod
    def load(cls, storage: ExperimentStorage, experiment_id: str) -> JournalCursor:
        """The stored cursor; from the beginning if it cannot be read or the journal was cut since. Raises OSError."""
        stored = TrackingRecord.read(storage.artifacts, experiment_id)
        if stored is None:
            return cls()
        ids = MlflowIds(stored.experiment, stored.parent, stored.runs)
        position = Position(stored.offset, stored.writer, stored.mark)
        if not storage.journal.stands(position):
            log.warning("the journal was cut since MLflow was updated, so all events are sent again")
            position = BEGINNING
        return cls(position, ids)

    def save(self, storage: ExperimentStorage, experiment_id: str) -> None:
        """If that fails, events after the older cursor will be sent twice, which leaves no duplicates in MLflow."""
        stored = TrackingRecord(
            offset=self.position.offset,
            mark=self.position.checksum,
            writer=self.position.writer,
            experiment=self.ids.experiment,
            parent=self.ids.parent,
            runs=dict(self.ids.runs),
            of=experiment_id,
        )
        try:
            stored.write(storage.artifacts)
        except OSError as error:
            log.warning("%s cannot be written, the older one is kept: %s", NAME, error)
