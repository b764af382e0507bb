"""MLflow writer: sends events to MLflow's runs.

Owns what each event becomes there: metrics, params, tags and statuses; those of the experiment's end are in `summary`.
A point that was sent before, by an earlier process or before the journal lost it, is left out. What MLflow refuses for
good is logged and left out, so that one bad value blocks nothing. Importing this module imports MLflow, which takes
seconds: the tracker's thread does it, once. It must not know the journal's file, Ray or the service.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow.entities import Metric, Param, RunTag

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import TRIAL_RUN_STATUS, LaunchConfig, Tag, TrialState, Winner, sanitize_text
from search_spaces.upgrade import upgrade_sample
from workers.state.events import (
    EpochFinished,
    Event,
    SlotReleased,
    TrialEnded,
    TrialEvent,
    TrialRetried,
    TrialSuggested,
)
from workers.tracking import registration
from workers.tracking.connection import Connection, LostRunsError, is_permanent, recorded, tolerating_refusal
from workers.tracking.mlflow_ids import MlflowIds
from workers.tracking.parallel import for_each
from workers.tracking.runs import Runs
from workers.tracking.summary import Summary
from workers.tracking.uploads import Uploads

log = logging.getLogger(__name__)

AT_ONCE = 4  # runs: a run takes three requests, and a search may end thousands of trials in minutes


@dataclass
class _Batch:
    """All that one run is sent at once. Times are Unix milliseconds."""

    began_ms: int
    items: list[Any] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    ended: tuple[str, int] | None = None


class MlflowWriter:
    """All methods raise what the client raises; they can then be called again, and continue where they were.

    `answered_at` is when MLflow last accepted the events of a run, or a file (monotonic seconds). `ended` tells which
    trials of the journal have ended.
    """

    def __init__(
        self,
        connection: Connection,
        launch: LaunchConfig,
        spec: ExperimentSpec,
        runs: Runs,
        ended: Callable[[], Mapping[int, bool]],
    ) -> None:
        self._connection = connection
        self._launch = launch
        self._spec = spec
        self._runs = runs
        self._ended = ended
        self._resumed = launch.attempt == 1
        self._accepted: dict[int, int] = {}  # trial -> how many of its events of the current block were accepted
        self._uploads = Uploads(self._note_answer)
        self.answered_at = -math.inf

    def ids(self) -> MlflowIds:
        return self._runs.ids()

    def send(self, events: list[Event], on_parent: Callable[[], None]) -> None:
        """Send a block of events. `on_parent` is called when the parent is found.

        After an error, the next call must begin with the same events. Those that were accepted are not sent again.
        """
        known = self.ids().parent
        parent = self._runs.parent(_ms(events[0]) if events else None)
        if parent != known:
            on_parent()
        if not self._resumed:
            self._resume(parent)
        for_each(list(_by_trial(events).values()), self._send, AT_ONCE)
        self._accepted.clear()

    def end_parent_run(self, summary: Summary, at: float, began: Mapping[int | None, float]) -> None:
        """Log the summary on the parent run, and end it at `at`. Deletes orphans.

        `began`: the time of the first event of each trial, and of the journal (None). Times are Unix seconds.
        """
        self._runs.delete_orphans({number: int(first * 1000) for number, first in began.items()})
        parent, at_ms = self._runs.parent(), int(at * 1000)
        metrics = [Metric(name, value, at_ms, summary.step) for name, value in summary.metrics.items()]
        self._log(parent, metrics + _tags(summary.tags))
        self._terminate(parent, summary.status, at_ms)

    def log_folder(self, folder: Path) -> None:
        parent = self._runs.parent()

        def send(path: str, below: str | None) -> None:
            self._connection.client().log_artifact(parent, path, str(PurePosixPath(folder.name, below or "")))

        self._uploads.send(folder, parent, send)

    def register(self, folder: Path, winner: Winner) -> str:
        """The `models:/` address of the model in `folder`."""
        parent, experiment_id = self._runs.parent(), self._launch.experiment_id
        return registration.register(
            self._connection.client, self._spec, experiment_id, parent, folder, winner, self._uploads
        )

    def _note_answer(self) -> None:
        self.answered_at = time.monotonic()

    def _send(self, of_trial: list[TrialEvent]) -> None:
        """Send the run of a trial those of its events that were not accepted yet."""
        number = of_trial[0].trial
        left = of_trial[self._accepted.get(number, 0) :]
        if not left:
            return
        batch = _batch(left)
        run = self._runs.of_trial(number, batch.params, batch.began_ms)
        self._log(run, self._runs.without_known_points(run, batch.items) + _tags(batch.tags))
        if batch.ended:
            self._terminate(run, *batch.ended)
        self._accepted[number] = len(of_trial)
        self._note_answer()

    def _resume(self, parent: str) -> None:
        """An experiment that had ended or was inactive continues, and so do its trials that have not ended."""
        with recorded(f"run {parent}"):
            self._connection.client().get_run(parent)
        self._runs.resume(parent)
        ended = self._ended()
        for number, run in self.ids().runs.items():
            if not ended.get(number, True):
                self._runs.resume(run)
        self._resumed = True

    def _log(self, run: str, items: list[Any]) -> None:
        """Log metrics, params and tags. If some are refused for good, all others are logged."""
        of_kind: list[Any] = [[item for item in items if isinstance(item, kind)] for kind in (Metric, Param, RunTag)]
        try:
            self._connection.client().log_batch(run, *of_kind)
        except Exception as error:
            if not is_permanent(error):
                raise
            if len(items) == 1 or not self._is_active(run):
                log.error("MLflow refuses %s of run %s: %s", [item.key for item in items], run, error)
                return
            middle = len(items) // 2
            self._log(run, items[:middle])
            self._log(run, items[middle:])

    def _terminate(self, run: str, status: str, at_ms: int) -> None:
        with tolerating_refusal(f"to end run {run}"):
            self._connection.client().set_terminated(run, status=status, end_time=at_ms)

    def _is_active(self, run: str) -> bool:
        """False for a run that somebody deleted. Raises LostRunsError if MLflow does not have the parent run either."""
        try:
            with recorded(f"run {run}"):
                return str(self._connection.client().get_run(run).info.lifecycle_stage) == "active"
        except LostRunsError:  # deleted for good by somebody, if MLflow still has the parent run
            parent = self._runs.parent()
            if run == parent:
                raise
            with recorded(f"run {parent}"):
                self._connection.client().get_run(parent)
            return False


def _by_trial(events: Iterable[Event]) -> dict[int, list[TrialEvent]]:
    """The events of each trial."""
    found: dict[int, list[TrialEvent]] = {}
    for event in events:
        if isinstance(event, TrialEvent):
            found.setdefault(event.trial, []).append(event)
    return found


def _batch(events: list[TrialEvent]) -> _Batch:
    """What the run of a trial is sent for some of its events."""
    batch = _Batch(_ms(events[0]))
    for event in events:
        at_ms = _ms(event)
        match event:
            case TrialSuggested():
                batch.params = {key: str(value) for key, value in upgrade_sample(event.parameters).items()}
                batch.items += [Param(key, value) for key, value in batch.params.items()]
                batch.tags[Tag.TRIAL_STATE] = TrialState.RUNNING
                if event.source is not None:
                    batch.tags[Tag.CONTINUED_FROM] = event.source
            case EpochFinished():
                batch.items += [Metric(name, float(value), at_ms, event.epoch) for name, value in event.metrics.items()]
            case TrialRetried():
                batch.tags[Tag.RESTARTS] = str(event.restarts)
        if isinstance(event, TrialRetried | SlotReleased) and batch.ended:  # it is tried again after its end
            batch.ended, batch.tags[Tag.TRIAL_STATE] = None, TrialState.RUNNING
        if isinstance(event, TrialEnded | TrialRetried) and event.kind is not None:
            batch.tags[Tag.ERROR_KIND] = event.kind
        if isinstance(event, TrialEnded | EpochFinished) and event.state is not None:
            batch.tags |= {Tag.TRIAL_STATE: event.state, Tag.STOP_REASON: event.reason}
            batch.ended = TRIAL_RUN_STATUS[event.state], at_ms
    return batch


def _ms(event: Event | TrialEvent) -> int:
    return int(event.at * 1000)


def _tags(tags: Mapping[str, str]) -> list[Any]:
    return [RunTag(key, sanitize_text(str(value))) for key, value in tags.items()]
