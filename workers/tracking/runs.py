"""Runs: the experiment's runs in MLflow, one for it and one for each trial, and what they hold already.

Owns finding and creating them, taking them up again, and deleting those that nothing stands for: of a
creation whose answer was lost, or of a trial that the journal lost. It must not know the journal.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import LaunchConfig, Tag, TrialState
from workers.tracking.connection import Connection, is_permanent
from workers.tracking.cursor import JournalCursor

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

log = logging.getLogger("rung.runs")

#: MLflow's pages show such an experiment as training runs, not as a chat application.
SHOWN_AS = {"mlflow.experimentKind": "custom_model_development"}

DESCRIPTION_CHARACTERS = 5000
PAGE = 1000  # runs of one answer


class Runs:
    """Keeps the ids in `place`. `continued`: there was an earlier process, whose runs may not be in it."""

    def __init__(
        self, connection: Connection, launch: LaunchConfig, spec: ExperimentSpec, place: JournalCursor, continued: bool
    ) -> None:
        self._client = connection.client
        self._experiment_id = launch.experiment_id
        self._spec = spec
        self._place = place
        # Up to here in the journal, runs may have been created whose ids were lost with a process or an answer.
        self._doubtful = math.inf if continued else 0
        # Steps that runs of earlier processes have, by run and metric; asked when a point is to be told.
        self._earlier: dict[str, dict[str, set[int]]] = {run: {} for run in place.runs.values()}

    def doubt(self, offset: int) -> None:
        """Something went wrong before this offset of the journal: a run may have been created all the same."""
        self._doubtful = max(self._doubtful, offset)

    def parent(self, began_ms: int | None = None) -> str:
        """The experiment's run."""
        if self._place.parent is None:
            self._place.experiment = _experiment(self._client(), self._spec.project)
            tags = {
                Tag.EXPERIMENT_ID: self._experiment_id,
                Tag.ROLE: "experiment",
                "mlflow.note.content": self._spec.description[:DESCRIPTION_CHARACTERS],
                Tag.LABELS: ", ".join(self._spec.labels),
            }
            found = self._found(f"tags.`{Tag.ROLE}` = 'experiment'")
            self._place.parent = found or self._created(self._spec.name, tags, began_ms)
        return self._place.parent

    def of_trial(self, number: int, params: Mapping[str, str], began_ms: int) -> str:
        """A trial's run, which goes on. One of other `params` makes room: of a trial that the journal lost."""
        parent, runs = self.parent(), self._place.runs
        if number not in runs:
            found = self._found(f"tags.`{Tag.TRIAL_ID}` = '{number}'")
            if found:
                self._earlier[found] = {}
                self.go_on(found)
                runs[number] = found
        if number in runs and self._is_of_another(runs[number], params):
            log.warning("run %s is of a trial %d that the journal has lost: it is deleted", runs[number], number)
            self._client().delete_run(runs.pop(number))
        if number not in runs:
            tags = {
                "mlflow.parentRunId": parent,
                Tag.EXPERIMENT_ID: self._experiment_id,
                Tag.TRIAL_ID: str(number),
            }
            runs[number] = self._created(f"trial-{number:04d}", tags, began_ms)
        return runs[number]

    def go_on(self, run: str) -> None:
        """Take up a run again that may have been ended, or belong to a parent that is no more."""
        from mlflow.entities import RunTag
        from mlflow.exceptions import MlflowException

        parent = self.parent()
        told = {} if run == parent else {"mlflow.parentRunId": parent, Tag.TRIAL_STATE: TrialState.RUNNING.value}
        try:
            self._client().update_run(run, status="RUNNING")
            if told:
                self._client().log_batch(run, tags=[RunTag(key, value) for key, value in told.items()])
        except MlflowException as error:
            if not is_permanent(error):
                raise
            log.error("MLflow refuses to go on with run %s: %s", run, error)

    def untold(self, run: str, items: list[Any]) -> list[Any]:
        """The items without the points that an earlier process told."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        if run not in self._earlier:
            return items
        told = self._earlier[run]
        for name in {item.key for item in items if isinstance(item, Metric)} - told.keys():
            try:
                told[name] = {point.step for point in self._client().get_metric_history(run, name)}
            except MlflowException as error:
                if not is_permanent(error):
                    raise
                told[name] = set()
        return [item for item in items if not (isinstance(item, Metric) and item.step in told[item.key])]

    def prune(self, trials: Collection[int]) -> None:
        """Delete what is none of the experiment's run and those of its `trials`, where there may be such."""
        if not self._doubtful:
            return
        for number in self._place.runs.keys() - set(trials):
            del self._place.runs[number]
        kept = {self.parent(), *self._place.runs.values()}
        for run in self._all():
            if run.info.run_id not in kept:
                log.warning("run %s, %s, is of nothing: it is deleted", run.info.run_id, run.info.run_name)
                self._client().delete_run(run.info.run_id)

    def _all(self) -> list[Run]:
        query = f"tags.`{Tag.EXPERIMENT_ID}` = '{self._experiment_id}'"
        runs: list[Run] = []
        token: str | None = ""
        while token is not None:
            page = self._client().search_runs(
                [str(self._place.experiment)], query, max_results=PAGE, page_token=token or None
            )
            runs += page
            token = page.token or None
        return runs

    def _is_of_another(self, run: str, params: Mapping[str, str]) -> bool:
        """Whether a run of an earlier process is of another configuration than the one to be told now."""
        from mlflow.exceptions import MlflowException

        if not params or run not in self._earlier:
            return False
        try:
            known = self._client().get_run(run).data.params
        except MlflowException as error:
            if not is_permanent(error):
                raise
            return False
        return any(known.get(key, value) != value for key, value in params.items())

    def _created(self, name: str, tags: dict[str, str], began_ms: int | None) -> str:
        run = self._client().create_run(str(self._place.experiment), began_ms, tags, name)
        return str(run.info.run_id)

    def _found(self, query: str) -> str | None:
        """The run of a creation whose answer was lost. Asked only where that may have happened."""
        if self._place.offset >= self._doubtful:
            return None
        query = f"tags.`{Tag.EXPERIMENT_ID}` = '{self._experiment_id}' and {query}"
        runs = self._client().search_runs([str(self._place.experiment)], query, max_results=1)
        return str(runs[0].info.run_id) if runs else None


def _experiment(client: MlflowClient, project: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(project)
    if found is None:
        try:
            return str(client.create_experiment(project, tags=SHOWN_AS))
        except MlflowException:
            found = client.get_experiment_by_name(project)  # another driver may have been quicker
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)  # its name cannot be used otherwise
    return str(found.experiment_id)
