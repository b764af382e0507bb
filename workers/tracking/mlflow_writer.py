"""MLflow writer: sends events to MLflow's runs.

Owns what is sent when, and what follows from an answer. What a trial's events become is in `batch`, what the
experiment's own run says in `description`, `progress` and, at its end, `summary`.
A point that was sent before, by an earlier process or before the journal lost it, is left out. What MLflow refuses for
good is logged and left out, so that one bad value blocks nothing. Importing this module imports MLflow, which takes
seconds: the tracker's thread does it, once. It must not know the journal's file, Ray or the service.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow.entities import Metric, Param, RunTag

from search_spaces.experiment import ExperimentSpec
from search_spaces.mlflow_view import TAG_PREFIX, view_key
from search_spaces.protocol import LaunchConfig, Phase, Tag, Winner, sanitize_text
from search_spaces.replicates import is_replicate
from workers.state.events import Event, TrialEvent
from workers.tracking import registration
from workers.tracking.batch import batch_of, by_trial
from workers.tracking.connection import (
    Connection,
    LostRunsError,
    SupersededError,
    is_outage,
    is_permanent,
    recorded,
    tolerating_refusal,
)
from workers.tracking.description import Description
from workers.tracking.mlflow_ids import MlflowIds
from workers.tracking.parallel import for_each
from workers.tracking.progress import Progress, Standing
from workers.tracking.runs import Runs
from workers.tracking.summary import Summary
from workers.tracking.uploads import Uploads

log = logging.getLogger(__name__)

GONE = "gone"  # a run that was deleted for good

REPORT_S = 10.0  # between two reports of the progress on the parent run: each costs a request
PAUSED_STATUS = "SCHEDULED"  # of the runs of MLflow's statuses that have not ended, the one that does not run
NOTE = "mlflow.note.content"  # MLflow shows it as the description of a run
AT_ONCE = 4  # runs: a run takes three requests, and a search may end thousands of trials in minutes


class MlflowWriter:
    """All methods raise what the client raises; they can then be called again, and continue where they were.

    `answered_at` is when MLflow last accepted the events of a run, or a file (monotonic seconds). `history` reads all
    events of the journal.
    """

    def __init__(
        self,
        connection: Connection,
        launch: LaunchConfig,
        spec: ExperimentSpec,
        runs: Runs,
        description: Description,
        history: Callable[[], Iterable[Event]],
    ) -> None:
        self._connection = connection
        self._launch = launch
        self._spec = spec
        self._runs = runs
        self._description = description
        self._history = history
        self._progress = Progress(spec.objective)
        self._resumed = launch.attempt == 1
        self._parameters = description.parent_parameters()  # of the parent run, which it may lack
        self._reported: Standing | None = None
        self._report_at = -math.inf  # monotonic seconds
        self._view: str | None = None
        self._view_refused = False
        self._best_epochs: dict[int, int] = {}  # trial -> the best epoch that its run has
        self._accepted: dict[int, int] = {}  # trial -> how many of its events of the current block were accepted
        self._uploads = Uploads(self._note_answer)
        self.answered_at = -math.inf

    def ids(self) -> MlflowIds:
        return replace(self._runs.ids(), view=self._view)

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
        of_trials = by_trial(events)
        for_each([own for trial, own in of_trials.items() if not is_replicate(trial)], self._send, AT_ONCE)
        for_each([own for trial, own in of_trials.items() if is_replicate(trial)], self._send, AT_ONCE)
        self._accepted.clear()
        self._progress.apply(events)

    def report_progress(self) -> None:
        """Say on the parent run how far the search is, unless it did so lately or nothing has changed.

        The first report also writes the experiment's view.
        """
        parent, now = self.ids().parent, time.monotonic()
        if parent is None or now - self._report_at < REPORT_S:
            return
        if self._view is None and not self._view_refused:
            self._write_view(parent)
        standing = self._progress.standing(self.ids().runs)
        if standing == self._reported:
            self._report_at = now
            return
        at_ms = int(standing.at * 1000)
        metrics = [Metric(name, value, at_ms, standing.step) for name, value in standing.metrics.items()]
        self._log(parent, metrics + _params(self._parameters) + _tags(standing.tags))
        self._parameters, self._reported, self._report_at = {}, standing, now

    def pause(self, reason: str) -> None:
        """Say on the parent run that the experiment is paused, if there is one."""
        parent = self.ids().parent
        if parent is not None:
            self._log(parent, _tags({Tag.STATE: Phase.PAUSED.upper(), Tag.REASON: reason}))
            self._connection.client().update_run(parent, status=PAUSED_STATUS)

    def end_parent_run(self, summary: Summary, at: float, began: Mapping[int | None, float]) -> None:
        """Log the summary on the parent run, and end it at `at`. Deletes orphans.

        `began`: the time of the first event of each trial, and of the journal (None). Times are Unix seconds.
        """
        self._runs.delete_orphans({number: int(first * 1000) for number, first in began.items()})
        parent, at_ms = self._runs.parent(), int(at * 1000)
        metrics = [Metric(name, value, at_ms, summary.step) for name, value in summary.metrics.items()]
        self._log(parent, metrics + _tags(summary.tags))
        for remark in summary.remarks:
            self._add_to_note(parent, remark)
        if summary.importance and not self._view_refused:
            self._write_view(parent, list(summary.importance))
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
            self._connection.client,
            self._spec,
            experiment_id,
            parent,
            folder,
            winner,
            self._uploads,
            self._launch.team,
        )

    def _write_view(self, parent: str, important: Sequence[str] = ()) -> None:
        """Again by each attempt: its form may have changed; and at the end, the `important` hyperparameters first. An
        MLflow that refuses it only costs the view."""
        key, experiment = view_key(self._launch.experiment_id), str(self.ids().experiment)
        try:
            value = self._description.view(parent, int(time.time() * 1000), important)
            self._connection.client().set_experiment_tag(experiment, TAG_PREFIX + key, value)
        except Exception as error:
            if isinstance(error, SupersededError) or is_outage(error):
                raise
            log.warning("MLflow refuses the view of the experiment: %s", error)
            self._view_refused = True
        else:
            self._view = key

    def _add_to_note(self, run: str, remark: str) -> None:
        """Add a remark to the note of a run, which a person may have edited, unless it is there."""
        with tolerating_refusal(f"to add to the note of run {run}"):
            note = self._connection.client().get_run(run).data.tags.get(NOTE, "")
            if remark not in note:
                self._connection.client().set_tag(run, NOTE, sanitize_text(f"{note}\n\n**Note:** {remark}."))

    def _note_answer(self) -> None:
        self.answered_at = time.monotonic()

    def _send(self, of_trial: list[TrialEvent]) -> None:
        """Send the run of a trial those of its events that were not accepted yet."""
        number = of_trial[0].trial
        left = of_trial[self._accepted.get(number, 0) :]
        if not left:
            return
        batch = batch_of(left, self._description, self._progress.state(number))
        run = self._runs.of_trial(number, batch.name, batch.params, batch.began_ms)
        best = self._progress.best_after(number, of_trial)
        points = self._runs.without_known_points(run, batch.points)
        if best is not None and self._best_epochs.get(number) != best.epoch:
            points += batch.best_points(best, self._spec.objective.metric)
        self._log(run, points + _params(batch.params) + _tags(batch.tags))
        if batch.ended:
            self._terminate(run, *batch.ended)
        if best is not None:
            self._best_epochs[number] = best.epoch
        self._accepted[number] = len(of_trial)
        self._note_answer()

    def _resume(self, parent: str) -> None:
        """An experiment that had ended or was inactive continues, and so do its trials that have not ended."""
        with recorded(f"run {parent}"):
            known = self._connection.client().get_run(parent).data.params
        # A parameter cannot change, and an older version may have written it in another way.
        self._parameters = {name: value for name, value in self._parameters.items() if name not in known}
        self._runs.resume(parent)
        self._progress.apply(self._history())
        for number, run in self.ids().runs.items():
            if not self._progress.ended(number):
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
            stage = None if self._runs.restore_experiment() else self._stage(run)
            if stage == "deleted":
                log.warning("restoring run %s, which somebody deleted", run)
                self._connection.client().restore_run(run)
            if stage in (None, "deleted"):
                self._log(run, items)
                return
            if len(items) == 1 or stage == GONE:
                log.error("MLflow refuses %s of run %s: %s", [item.key for item in items], run, error)
                return
            middle = len(items) // 2
            self._log(run, items[:middle])
            self._log(run, items[middle:])

    def _terminate(self, run: str, status: str, at_ms: int) -> None:
        with tolerating_refusal(f"to end run {run}"):
            self._connection.client().set_terminated(run, status=status, end_time=at_ms)

    def _stage(self, run: str) -> str:
        """Active, deleted (it can be restored), or GONE. Raises LostRunsError if MLflow does not have the parent run
        either."""
        try:
            with recorded(f"run {run}"):
                return str(self._connection.client().get_run(run).info.lifecycle_stage)
        except LostRunsError:  # deleted for good by somebody, if MLflow still has the parent run
            parent = self._runs.parent()
            if run == parent:
                raise
            with recorded(f"run {parent}"):
                self._connection.client().get_run(parent)
            return GONE


def _ms(event: Event | TrialEvent) -> int:
    return int(event.at * 1000)


def _params(params: Mapping[str, str]) -> list[Any]:
    return [Param(key, value) for key, value in params.items()]


def _tags(tags: Mapping[str, str]) -> list[Any]:
    return [RunTag(key, sanitize_text(str(value))) for key, value in tags.items()]
