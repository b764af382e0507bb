"""The runs of an experiment, as MLflow has them."""

from __future__ import annotations

from collections.abc import Iterable

from mlflow import MlflowClient
from mlflow.entities import Run

from search_spaces.protocol import METRICS, Tag
from search_spaces.replicates import is_replicate
from service.contract.schemas import ExperimentView, TrialView


def trial_runs(mlflow: MlflowClient, view: ExperimentView) -> dict[int, Run]:
    """The run of each trial of the search. Fails if a trial has two, or if the experiment has more than one other."""
    query = f"tags.`{Tag.EXPERIMENT_ID}` = '{view.id}'"
    runs = mlflow.search_runs([str(view.mlflow_experiment_id)], query, max_results=1000)
    assert [run.info.run_id for run in runs if Tag.TRIAL_ID not in run.data.tags] == [view.mlflow_run_id]
    of_trials = [run for run in runs if Tag.TRIAL_ID in run.data.tags]
    trials = [run for run in of_trials if not is_replicate(int(run.data.tags[Tag.TRIAL_ID]))]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} <= {view.mlflow_run_id}
    found = {int(run.data.tags[Tag.TRIAL_ID]): run for run in trials}
    assert len(found) == len(trials), "a trial has two runs"
    return found


def assert_every_point_once(mlflow: MlflowClient, trial: TrialView, metrics: Iterable[str] = METRICS) -> None:
    for name in metrics:
        steps = [point.step for point in mlflow.get_metric_history(str(trial.mlflow_run_id), name)]
        assert steps == list(range(1, trial.epoch + 1)), (trial.trial, name)
