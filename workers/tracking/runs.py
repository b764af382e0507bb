"""Runs: the experiment's runs in MLflow, one for the experiment (the parent) and one for each trial.

Owns their ids: finding and creating runs, resuming them, and deleting those that belong to no trial, because the
answer to their creation or the journal's entry of their trial was lost. It must not know the journal.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import LaunchConfig, Tag, TrialState
from search_spaces.replicates import is_replicate, replicated
from workers.tracking.connection import Connection, is_permanent, recorded, tolerating_refusal
from workers.tracking.description import Description
from workers.tracking.mlflow_ids import MlflowIds

log = logging.getLogger(__name__)

#: MLflow's pages show such an experiment as training runs, not as a chat application.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

PAGE = 1000  # runs per request
OWNER = "mlflow.user"  # whom MLflow's pages name as the user of a run


class Runs:
    """`ids`: the run ids of earlier processes. `continued`: there was one, whose runs may be missing from `ids`."""

    def __init__(
        self,
        connection: Connection,
        launch: LaunchConfig,
        spec: ExperimentSpec,
        description: Description,
        ids: MlflowIds,
        continued: bool,
    ) -> None:
        self._connection = connection
        self._client = connection.client
        self._experiment_id = launch.experiment_id
        self._owner = {OWNER: launch.owner} if launch.owner else {}
        self._spec = spec
        self._description = description
        self._experiment, self._parent, self._runs = ids.experiment, ids.parent, dict(ids.runs)
        self._continued = continued
        self._unanswered: set[str] = set()  # queries of runs that may exist, as no answer to their creation came
        self._answers_lost = False  # so there may be runs of no trial
        # Steps that the runs of earlier processes have, by run and metric; asked for when a point is to be sent.
        self._earlier: dict[str, dict[str, set[int]]] = {run: {} for run in self._runs.values()}

    def ids(self) -> MlflowIds:
        return MlflowIds(self._experiment, self._parent, dict(self._runs))

    def parent(self, began_ms: int | None = None) -> str:
        """The experiment's run."""
        if self._parent is None:
            self._experiment = _mlflow_experiment(self._client(), self._spec.project)
            tags = {
                Tag.EXPERIMENT_ID: self._experiment_id,
                Tag.ROLE: "experiment",
                "mlflow.note.content": self._description.note(str(self._experiment)),
                Tag.LABELS: ", ".join(self._spec.labels),
            }
            began_ms = int(time.time() * 1000) if began_ms is None else began_ms
            query = f"tags.`{Tag.ROLE}` = 'experiment' and start_time = {began_ms}"
            found = self._find(query) if self._continued else None
            self._parent = found or self._create(self._description.parent_name(), tags, began_ms, query)
        return self._parent

    def of_trial(self, number: int, name: str, params: Mapping[str, str], began_ms: int) -> str:
        """The run of a trial that is running; one that is created has this `name`.

        A run of other `params` is of a trial that the journal lost: deleted.
        """
        runs = self._runs
        self.parent()
        query = f"tags.`{Tag.TRIAL_ID}` = '{number}' and start_time = {began_ms}"
        if number not in runs and self._continued:
            found = self._find(query)
            if found:
                self._earlier[found] = {}
                runs[number] = found
                self.resume(found)
        if number in runs and self._has_other_params(runs[number], params):
            self._delete_orphan(runs.pop(number))
        if number not in runs:
            tags = {
                "mlflow.parentRunId": self._parent_of(number),
                Tag.EXPERIMENT_ID: self._experiment_id,
                Tag.TRIAL_ID: str(number),
            }
            if is_replicate(number):
                tags |= {Tag.ROLE: "replicate", Tag.REPLICATE_OF: str(replicated(number)[0])}
            runs[number] = self._create(name, tags, began_ms, query)
        return runs[number]

    def resume(self, run: str) -> None:
        """Set a run to RUNNING that may have been ended, or may belong to a parent that no longer exists."""
        parent = self.parent()
        number = next((number for number, known in self._runs.items() if known == run), 0)
        owner = {"mlflow.parentRunId": self._parent_of(number), Tag.TRIAL_STATE: TrialState.RUNNING.value}
        tags = {} if run == parent else owner
        with tolerating_refusal(f"to resume run {run}"):
            self._client().update_run(run, status="RUNNING")
            if tags:
                self._client().log_batch(run, tags=[RunTag(key, value) for key, value in tags.items()])

    def _parent_of(self, number: int) -> str:
        """A replicate is below the run of its trial, so that the charts of the trials show the search only."""
        parent = self.parent()
        return self._runs.get(replicated(number)[0], parent) if is_replicate(number) else parent

    def restore_experiment(self) -> bool:
        """Restore MLflow's experiment, with its runs, if somebody deleted it. Returns whether that was so."""
        with recorded(f"experiment {self._experiment}"):
            is_active = self._client().get_experiment(str(self._experiment)).lifecycle_stage == "active"
        if not is_active:
            log.warning("restoring MLflow's experiment %s, which somebody deleted", self._experiment)
            self._client().restore_experiment(str(self._experiment))
        return not is_active

    def without_known_points(self, run: str, items: list[Any]) -> list[Any]:
        """The items except the points that an earlier process sent."""
        if run not in self._earlier:
            return items
        known = self._earlier[run]
        for name in {item.key for item in items if isinstance(item, Metric)} - known.keys():
            steps: set[int] = set()
            with tolerating_refusal(f"to list the points of {name} of run {run}"):
                steps = {point.step for point in self._client().get_metric_history(run, name)}
            known[name] = steps
        return [item for item in items if not (isinstance(item, Metric) and item.step in known[item.key])]

    def delete_orphans(self, began_ms: Mapping[int | None, int]) -> None:
        """Delete the runs of trials that do not exist, and second runs of others, if there may be any.

        `began_ms`: when each trial began, and the parent run (None); their runs began then. Every trial has ended by
        now, so runs whose creation this process was not told of are those that still run.
        """
        if not (self._continued or self._answers_lost):
            return
        for number in self._runs.keys() - began_ms.keys():
            self._delete_orphan(self._runs.pop(number))
        kept = {self.parent(), *self._runs.values()}
        for run in self._all("" if self._continued else " and attributes.status = 'RUNNING'"):
            trial = run.data.tags.get(Tag.TRIAL_ID, "")
            began = began_ms.get(int(trial) if trial.isdecimal() else None)
            if run.info.run_id not in kept and run.info.start_time == began:
                self._delete_orphan(run.info.run_id)

    def _delete_orphan(self, run: str) -> None:
        """Delete a run of a trial that the journal has lost, unless it is another experiment's: code that trains can
        write to the file that has the ids."""
        with tolerating_refusal(f"to delete run {run}"):
            if self._client().get_run(run).data.tags.get(Tag.EXPERIMENT_ID) == self._experiment_id:
                log.warning("deleting orphaned MLflow run %s", run)
                self._client().delete_run(run)

    def _all(self, condition: str) -> list[Run]:
        query = f"tags.`{Tag.EXPERIMENT_ID}` = '{self._experiment_id}'{condition}"
        runs: list[Run] = []
        token: str | None = ""
        while token is not None:
            page = self._client().search_runs(
                [str(self._experiment)], query, max_results=PAGE, page_token=token or None
            )
            runs += page
            token = page.token or None
        return runs

    def _has_other_params(self, run: str, params: Mapping[str, str]) -> bool:
        """Whether a run of an earlier process has another configuration than the one to be sent now."""
        if not params or run not in self._earlier:
            return False
        known: Mapping[str, str] = {}
        with tolerating_refusal(f"to read run {run}"):
            known = self._client().get_run(run).data.params
        return any(known.get(key, value) != value for key, value in params.items())

    def _create(self, name: str, tags: dict[str, str], began_ms: int | None, query: str) -> str:
        """Create a run. One that exists because only the answer to an earlier request was lost is found by `query`."""

        def create() -> str:
            if query in self._unanswered:
                self._answers_lost = True
                found = self._find(query)
                if found:
                    self._unanswered.discard(query)
                    return found
            self._unanswered.add(query)
            with recorded(f"experiment {self._experiment}"):
                try:
                    run = self._client().create_run(str(self._experiment), began_ms, tags | self._owner, name)
                except MlflowException as error:
                    if not (is_permanent(error) and self.restore_experiment()):
                        raise
                    run = self._client().create_run(str(self._experiment), began_ms, tags | self._owner, name)
            self._unanswered.discard(query)
            return str(run.info.run_id)

        return self._connection.repeat(create)

    def _find(self, query: str) -> str | None:
        """The run of a creation whose answer was lost. `query` must have its start time, which nobody can change.

        The tags do not prove that a run belongs to this experiment: anybody who may edit a run can set them.
        """
        query = f"tags.`{Tag.EXPERIMENT_ID}` = '{self._experiment_id}' and {query}"
        with recorded(f"experiment {self._experiment}"):
            runs = self._client().search_runs([str(self._experiment)], query, max_results=1)
        return str(runs[0].info.run_id) if runs else None


def _mlflow_experiment(client: MlflowClient, project: str) -> str:
    """The id of MLflow's experiment for a project; it is created or restored if necessary."""
    found = client.get_experiment_by_name(project)
    if found is None:
        try:
            return str(client.create_experiment(project, tags=EXPERIMENT_TAGS))
        except MlflowException:
            found = client.get_experiment_by_name(project)  # another driver may have created it meanwhile
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)  # its name cannot be used otherwise
    return str(found.experiment_id)
