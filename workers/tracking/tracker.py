"""Tracking: the only writer to MLflow.

Owns the thread that reads the journal and tells MLflow what it says: every point of every curve exactly once,
parameters, states. It keeps its place in `tracking.json`. Points carry the journal's timestamps, so a batch
that is sent twice leaves one point: MLflow's key is (run, metric, step, timestamp, value). A point that is
told anew, because a crash or damage took it from the journal and its epoch was trained again, is left out:
runs of earlier processes are asked what they have. A journal in which a later attempt writes is that one's to
tell. What MLflow refuses for good is logged and left out, so that one bad value holds up nothing. Training
never waits for it. It must not know Ray or the service.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import TRIAL_RUN_STATUS, LaunchConfig, Tag, TrialState, Winner, sanitize_text
from workers.state import journal
from workers.state.journal import Entry
from workers.tracking import registration
from workers.tracking.connection import Connection, SupersededError, is_permanent
from workers.tracking.cursor import JournalCursor, MlflowIds
from workers.tracking.runs import Runs

log = logging.getLogger("rung.tracking")


@dataclass
class _Batch:
    """All that one run is to be told at once. Times are Unix milliseconds."""

    began_ms: int
    items: list[Any] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    ended: tuple[str, int] | None = None


class Tracker(threading.Thread):
    """Follows the journal until `finish`. `answered_at` is when MLflow last took a run's news (monotonic seconds):
    those that are sent again, because another run's were not taken, do not count.

    Once `fenced` says so, after `close`, and where a later attempt writes the journal, nothing is written any
    more: all methods raise SupersededError or do nothing.
    """

    def __init__(
        self,
        launch: LaunchConfig,
        spec: ExperimentSpec,
        journal_path: Path,
        fenced: Callable[[], bool] = lambda: False,
        interval_s: float = 1.0,
    ) -> None:
        super().__init__(name="tracking", daemon=True)
        self._launch = launch
        self._spec = spec
        self._journal_path = journal_path
        self._place_path = journal_path.with_name("tracking.json")
        continued = launch.attempt > 1 or self._place_path.exists()
        self._place = JournalCursor.load(self._place_path, journal_path)
        self.connection = Connection(launch, fenced)
        self._runs = Runs(self.connection, launch, spec, self._place, continued)
        self._interval_s = interval_s
        self._reopened = launch.attempt == 1
        self.answered_at = -math.inf
        self._said = ""  # of what goes wrong again and again
        self._taken: set[int] = set()  # trials whose news of this place were taken
        self._finished, self._due = threading.Event(), threading.Event()
        self._working = threading.Lock()

    def ids(self) -> MlflowIds:
        return self._place.ids()

    def run(self) -> None:
        # At once, while the slots start: the parent run is there to be looked at, and MLflow's import over.
        while not self._finished.is_set():
            self.deliver()
            self._due.wait(self._interval_s)
            self._due.clear()

    def wake(self) -> None:
        """Deliver now, beside whatever the caller does next."""
        self._due.set()

    def deliver(self) -> bool:
        """Tell MLflow what the journal has gained. False when it did not answer; nothing is lost then."""
        with self._working:
            try:
                while self._deliver_some():
                    pass
            except SupersededError as superseded:
                log.info("MLflow is told nothing more: %s", superseded)
                self.close()
                return False
            except Exception as error:
                # Whatever the client raises, the entries stay in the journal and are tried again.
                if repr(error) != self._said:
                    self._said = repr(error)
                    log.warning("MLflow did not take the newest points, which are kept: %s", self._said)
                return False
            self._said = ""
            return True

    def stop(self) -> None:
        """Stop following. What is left is delivered by the next attempt."""
        self._finished.set()
        self._due.set()

    def close(self) -> None:
        """Stop following, and write nothing more. What MLflow has yet to answer is not waited for."""
        self.stop()
        self.connection.close()

    def finish(self) -> None:
        """Stop following, and deliver what is left. Raises what the client raises; nothing is lost then."""
        self.stop()
        if self.is_alive():
            self.join()
        with self._working:
            while self._deliver_some():
                pass

    def end_parent_run(self, status: str, summary: dict[str, float], tags: dict[str, str], step: int = 0) -> None:
        """Set the parent run's figures at `step` and end it with `status`. Raises what the client raises.

        An experiment that is extended is closed again: with more trials as its step, no figure stands twice.
        Runs that are of no trial of the journal are deleted.
        """
        from mlflow.entities import Metric

        self._runs.prune(self._trials())
        parent, at_ms = self._runs.parent(), self._last_ms()
        self._tell(parent, [Metric(name, value, at_ms, step) for name, value in summary.items()] + _tags(tags))
        self._terminate(parent, status, at_ms)

    def log_folder(self, folder: Path) -> None:
        """Log the files of a folder on the parent run, under the folder's name. Raises what the client raises."""
        self.connection.client().log_artifacts(self._runs.parent(), str(folder), artifact_path=folder.name)

    def register(self, folder: Path, winner: Winner) -> str:
        """Log the model saved in `folder` on the parent run and register it. Gives its `models:/` address.

        What an earlier call or attempt has done for the same trial is kept. Raises what the client raises.
        """
        parent = self._runs.parent()
        return registration.register(
            self.connection.client, self._spec, self._launch.experiment_id, parent, folder, winner
        )

    def _deliver_some(self) -> bool:
        entries, offset, writer = journal.read(self._journal_path, self._place.offset, self._place.writer)
        if writer > self._launch.attempt:
            raise SupersededError(f"attempt {writer} has taken over the journal")
        if offset == self._place.offset:
            return False
        try:
            self._deliver_entries(entries)
        except Exception:
            self._runs.doubt(offset)
            raise
        self._taken.clear()
        self._place.offset, self._place.writer = offset, writer
        self._place.mark = journal.checksum_at(self._journal_path, offset)
        self._save_place()
        return True

    def _deliver_entries(self, entries: list[Entry]) -> None:
        known = self._place.parent
        parent = self._runs.parent(_ms(entries[0]) if entries else None)
        if parent != known:
            self._save_place()
        if not self._reopened:
            self._reopen(parent)
        for number, batch in _batches(entries).items():
            run = self._runs.of_trial(number, batch.params, batch.began_ms)
            self._tell(run, self._runs.untold(run, batch.items) + _tags(batch.tags))
            if batch.ended:
                self._terminate(run, *batch.ended)
            if number not in self._taken:
                self._taken.add(number)
                self.answered_at = time.monotonic()

    def _reopen(self, parent: str) -> None:
        """An experiment that had ended or stood still goes on, and so do its trials that have not ended."""
        self._runs.go_on(parent)
        ended = self._trials()
        for number, run in self.ids().runs.items():
            if not ended.get(number, True):
                self._runs.go_on(run)
        self._reopened = True

    def _tell(self, run: str, items: list[Any]) -> None:
        """Log metrics, params and tags. Where some are refused for good, all others are logged."""
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException

        of_kind: list[Any] = [[item for item in items if isinstance(item, kind)] for kind in (Metric, Param, RunTag)]
        try:
            self.connection.client().log_batch(run, *of_kind)
        except MlflowException as error:
            if not is_permanent(error):
                raise
            if len(items) == 1 or not self._is_active(run):
                log.error("MLflow refuses %s of run %s: %s", [item.key for item in items], run, error)
                return
            middle = len(items) // 2
            self._tell(run, items[:middle])
            self._tell(run, items[middle:])

    def _terminate(self, run: str, status: str, at_ms: int) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.connection.client().set_terminated(run, status=status, end_time=at_ms)
        except MlflowException as error:
            if not is_permanent(error):
                raise
            log.error("MLflow refuses the end of run %s: %s", run, error)

    def _is_active(self, run: str) -> bool:
        """False for a run that somebody deleted."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self.connection.client().get_run(run).info.lifecycle_stage) == "active"
        except MlflowException as error:
            if not is_permanent(error):
                raise
            return False

    def _trials(self) -> dict[int, bool]:
        """The journal's trials, and whether each has ended."""
        ended: dict[int, bool] = {}
        for entry in journal.entries(self._journal_path):
            if _is_of_a_trial(entry):
                ended[entry["trial"]] = ended.get(entry["trial"], False) or "state" in entry
        return ended

    def _last_ms(self) -> int:
        """When the experiment last changed: the same for every attempt that finds it at its end."""
        entries = (entry for entry in journal.entries(self._journal_path) if entry["event"] != "attempt")
        return max(map(_ms, entries), default=0)

    def _save_place(self) -> None:
        with self.connection.uninterrupted():
            self._place.save(self._place_path)


def _batches(entries: Iterable[Entry]) -> dict[int, _Batch]:
    """What the runs of the trials are to be told of some entries, by trial."""
    from mlflow.entities import Metric, Param

    batches: dict[int, _Batch] = {}
    for entry in filter(_is_of_a_trial, entries):
        at_ms = _ms(entry)
        batch = batches.setdefault(entry["trial"], _Batch(at_ms))
        if entry["event"] == "suggested":
            batch.params = {key: str(value) for key, value in entry["parameters"].items()}
            batch.items += [Param(key, value) for key, value in batch.params.items()]
            batch.tags[Tag.TRIAL_STATE] = TrialState.RUNNING
            if "source" in entry:
                batch.tags[Tag.CONTINUED_FROM] = entry["source"]
        if "kind" in entry:
            batch.tags[Tag.ERROR_KIND] = entry["kind"]
        if "restarts" in entry:
            batch.tags[Tag.RESTARTS] = str(entry["restarts"])
        if entry["event"] == "epoch":
            batch.items += [
                Metric(name, float(value), at_ms, entry["epoch"]) for name, value in entry["metrics"].items()
            ]
        if "state" in entry:
            batch.tags |= {Tag.TRIAL_STATE: entry["state"], Tag.STOP_REASON: entry["reason"]}
            batch.ended = TRIAL_RUN_STATUS[TrialState(entry["state"])], at_ms
    return batches


def _is_of_a_trial(entry: Entry) -> bool:
    return "trial" in entry and entry["event"] != "winner"


def _ms(entry: Entry) -> int:
    return int(entry["at"] * 1000)


def _tags(tags: dict[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(key, sanitize_text(str(value))) for key, value in tags.items()]
