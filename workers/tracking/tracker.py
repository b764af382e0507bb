"""Tracker: the only way from the journal to MLflow.

Owns the thread that follows the journal, and the cursor in `tracking.json`: every point of every curve is in MLflow
exactly once. Points carry the journal's timestamps, so a batch that is sent twice leaves one point: MLflow's key is
(run, metric, step, timestamp, value). Once a later attempt writes to the journal, the rest is that attempt's to send.
Training never waits for it. It must not know Ray or the service.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.experiment import ExperimentSpec
from search_spaces.periodic import PeriodicThread
from search_spaces.protocol import LaunchConfig, Winner
from search_spaces.request_limits import RequestLimits
from search_spaces.storage.base import BLOCK_BYTES, ExperimentStorage, Position
from workers.state.events import AttemptStarted, Event, TrialEvent, decode_all
from workers.tracking import cursor
from workers.tracking.connection import Connection, SupersededError
from workers.tracking.cursor import JournalCursor
from workers.tracking.description import Description
from workers.tracking.mlflow_ids import MlflowIds
from workers.tracking.summary import Summary

if TYPE_CHECKING:
    from workers.tracking.mlflow_writer import MlflowWriter

#: A delivery follows the journal by so much, also on a busy machine: a shorter lag is no backlog.
USUAL_LAG_S = 10.0
PAUSE_S = 3.0  # for MLflow to take the pause: the slots are free, and the service waits for the final heartbeat

log = logging.getLogger(__name__)


class Tracker:
    """Follows the journal from `start` until `finish`, `stop` or `close`.

    Once `superseded` returns True, after `close`, and when a later attempt writes to the journal, nothing is written
    any more: the methods raise SupersededError or do nothing.
    """

    def __init__(
        self,
        launch: LaunchConfig,
        spec: ExperimentSpec,
        storage: ExperimentStorage,
        superseded: Callable[[], bool] = lambda: False,
        interval_s: float = 1.0,
        block_bytes: int = BLOCK_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._launch = launch
        self._spec = spec
        self._storage = storage
        self._block_bytes = block_bytes
        self._cursor = JournalCursor.load(storage, launch.experiment_id)
        self._continued = launch.attempt > 1 or storage.artifacts.exists(cursor.NAME)
        self._opened: MlflowWriter | None = None
        self._working = threading.Lock()
        self._monotonic = monotonic
        self._complete_at = monotonic()
        self._finished = False
        self._reported_error = ""  # so that a lasting error is logged once
        self._thread = PeriodicThread("tracking", self.deliver, interval_s)
        self.connection = Connection(launch, superseded)

    @property
    def answered_at(self) -> float:
        """When MLflow last accepted new events (monotonic seconds)."""
        return -math.inf if self._opened is None else self._opened.answered_at

    @property
    def behind_s(self) -> float:
        """Seconds since MLflow last had all events; 0 while the lag is usual, and after `finish`."""
        lag_s = 0.0 if self._finished else self._monotonic() - self._complete_at
        return lag_s if lag_s > USUAL_LAG_S else 0.0

    def ids(self) -> MlflowIds:
        return self._cursor.ids if self._opened is None else self._opened.ids()

    def start(self) -> None:
        # The first delivery is at once, while the workers start: it creates the parent run and imports MLflow.
        self._thread.start()

    def wake(self) -> None:
        """Deliver now, beside whatever the caller does next."""
        self._thread.wake()

    def deliver(self) -> bool:
        """Send MLflow what the journal has gained. Returns False if it failed; nothing is lost then."""
        with self._working:
            try:
                while self._deliver_block():
                    pass
                if self._opened is not None:
                    self._opened.report_progress()
            except SupersededError as superseded:
                log.info("nothing more is sent to MLflow: %s", superseded)
                self.close()
                return False
            except Exception as error:
                # Whatever the client raises, the events stay in the journal and are sent again.
                if repr(error) != self._reported_error:
                    self._reported_error = repr(error)
                    log.warning("MLflow did not accept the newest events, which will be sent again: %s", error)
                return False
            self._reported_error = ""
            self._complete_at = self._monotonic()
            return True

    def stop(self) -> None:
        """Stop following. What is left is delivered by the next attempt."""
        self._thread.stop()

    def close(self) -> None:
        """Stop following, and write nothing more. Does not wait for MLflow's pending answers."""
        self.stop()
        self.connection.close()

    def finish(self) -> None:
        """Stop following, and deliver what is left. Raises what the client raises; nothing is lost then."""
        self.stop()
        self._thread.join()
        self._finished = False
        with self._working:
            while self._deliver_block():
                pass
        self._finished = True

    def end_parent_run(self, summary: Summary) -> None:
        """Log the summary on the parent run and end it. Raises what the client raises.

        Every attempt that finds the experiment ended gives the same time.
        """
        at, began = 0.0, dict[int | None, float]()
        for event in self._history():
            at = at if isinstance(event, AttemptStarted) else max(at, event.at)
            began.setdefault(None, event.at)
            if isinstance(event, TrialEvent):
                began.setdefault(event.trial, event.at)
        self._writer().end_parent_run(summary, at, began)

    def pause(self, reason: str) -> None:
        """Stop following, and say on the parent run that the experiment is paused, if MLflow answers soon."""
        self.stop()
        if self._opened is None or not self._working.acquire(timeout=PAUSE_S):
            return
        try:
            RequestLimits(PAUSE_S).run(lambda _: self._writer().pause(reason))
        except Exception as error:  # the experiment is paused all the same
            log.info("MLflow does not show that the experiment is paused: %r", error)
        finally:
            self._working.release()

    def log_folder(self, folder: Path) -> None:
        """Log the files of a folder on the parent run, under the folder's name. Raises what the client raises."""
        self._writer().log_folder(folder)

    def register(self, folder: Path, winner: Winner) -> str:
        """Log the model saved in `folder` on the parent run and register it. Returns its `models:/` address.

        What an earlier call or attempt has done for the same trial is kept. Raises what the client raises.
        """
        return self._writer().register(folder, winner)

    def _deliver_block(self) -> bool:
        """Send one block of events. Returns False if there is none."""
        before = self._cursor.position
        entries, position = self._storage.journal.read(before, self._block_bytes)
        if position.writer > self._launch.attempt:
            raise SupersededError(f"attempt {position.writer} writes to the journal")
        if position == before:
            return False
        writer = self._writer()
        writer.send(list(decode_all(entries)), lambda: self._save(before))
        self._save(position)
        return True

    def _writer(self) -> MlflowWriter:
        if self._opened is None:
            self.connection.client()  # first: it sets what MLflow reads from the environment when it is imported
            from workers.tracking.mlflow_writer import MlflowWriter
            from workers.tracking.runs import Runs

            description = Description(self._launch, self._spec)
            runs = Runs(self.connection, self._launch, self._spec, description, self._cursor.ids, self._continued)
            self._opened = MlflowWriter(self.connection, self._launch, self._spec, runs, description, self._history)
        return self._opened

    def _history(self) -> Iterator[Event]:
        return decode_all(self._storage.journal.entries())

    def _save(self, position: Position) -> None:
        with self.connection.uninterrupted():
            self._cursor = JournalCursor(position, self.ids())
            self._cursor.save(self._storage, self._launch.experiment_id)
