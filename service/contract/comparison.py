"""Comparison: what differs between experiments, in their specs and in their results.

A pure function over the answers of the API. It must not know how they are requested, nor how it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from search_spaces.controls import SPEC_PATHS
from search_spaces.mlflow_view import charts_path, comparison_path
from search_spaces.objective import Objective
from search_spaces.replicates import trial_of
from search_spaces.searched import described, importance_order, searched_parameters
from service.contract.schemas import ExperimentView, TrialView

#: Most experiments of one comparison: more columns cannot be read.
MOST_EXPERIMENTS = 10
#: Trials of all experiments whose curves the link to MLflow shows: its page draws so many until one asks for more.
MOST_CURVES = 10
#: Fields of a spec that identify an experiment, or are shown with its results.
IDENTITY = frozenset({"version", "name", "project", "description", "labels"})
#: The prefix of fields that may be changed while an experiment runs: their current values are compared.
CONTROLS = "controls"


class ComparedExperiment(BaseModel):
    """The result of one experiment."""

    id: str = Field(description="Identifier.")
    name: str = Field(description="Name from the spec.")
    project: str = Field(description="Project from the spec.")
    state: str = Field(description="Current state.")
    trials: dict[str, int] = Field(description="Number of trials in each state.")
    metric: str = Field(description="Metric of the objective.")
    best_trial: int | None = Field(
        description="Number of the trial with the best value in the search, which fresh seeds may have beaten."
    )
    best_value: float | None = Field(description="Its best value of the objective.")
    best_epoch: int | None = Field(description="Epoch of that value, counted from 1.")
    winner_trial: int | None = Field(None, description="Number of the trial that won; null while there is no winner.")
    winner_run: int | None = Field(
        None, description="Number of its run whose weights are registered: itself, or one with a fresh seed."
    )
    winner_value: float | None = Field(None, description="The best value of the objective of that run.")
    winner_epoch: int | None = Field(None, description="Epoch of that value, counted from 1.")
    winner_parameters: dict[str, str | float | int | bool] = Field(
        default_factory=dict, description="The winner's hyperparameters that any of the experiments searches."
    )
    test_accuracy: float | None = Field(description="Accuracy of the winner's run on the test set.")
    best_parameters: dict[str, str | float | int | bool] = Field(
        description="The hyperparameters of the best trial that any of the experiments searches."
    )


class Difference(BaseModel):
    """A field in which the specs differ."""

    name: str = Field(description="Dotted path in the spec, or `controls` and the name of a control.")
    values: list[str | None] = Field(
        description="The value or domain in each experiment; null where the field does not exist."
    )


class Comparison(BaseModel):
    """Several experiments side by side. All lists have the order in which the experiments were named."""

    experiments: list[ComparedExperiment] = Field(description="The results.")
    differences: list[Difference] = Field(description="The fields in which the specs differ.")
    mlflow_url: str | None = Field(
        description="URL of MLflow's comparison of the experiments' runs; null where MLflow does not have all of "
        "them, or has them in different workspaces."
    )
    mlflow_charts_url: str | None = Field(
        description="URL of MLflow's charts of the best trials of each; null where their objectives differ too."
    )


def curves_each(experiments: int) -> int:
    """The number of best trials of each experiment that are compared."""
    return MOST_CURVES // experiments


def compare(
    views: Sequence[ExperimentView], best: Sequence[Sequence[TrialView]], winners: Sequence[TrialView | None]
) -> Comparison:
    """The comparison of experiments; `best` are the best trials of each, the best first, and `winners` the runs whose
    weights are registered, as far as there are any."""
    searched = set().union(*(searched_parameters(view.spec.get("search_space")) for view in views))
    return Comparison(
        experiments=[_result(*one, searched) for one in zip(views, best, winners, strict=True)],
        differences=_differences(views),
        mlflow_url=_runs_url(views),
        mlflow_charts_url=_charts_url(views, best),
    )


def _result(
    view: ExperimentView, trials: Sequence[TrialView], run: TrialView | None, searched: set[str]
) -> ComparedExperiment:
    winner = view.winner or {}
    number = view.best.trial if view.best else None
    trial = next((trial for trial in trials if trial.trial == number), None)
    return ComparedExperiment(
        id=view.id,
        name=view.name,
        project=view.project,
        state=view.state,
        trials={state: count for state, count in view.trials.items() if count},
        metric=view.metric,
        best_trial=number,
        best_value=view.best.value if view.best else None,
        best_epoch=trial.best_epoch if trial else None,
        winner_trial=trial_of(winner["trial"]) if winner else None,
        winner_run=winner.get("trial"),
        winner_value=winner.get("value"),
        winner_epoch=run.best_epoch if run else None,
        winner_parameters=_searched(run, searched),
        test_accuracy=winner.get("test_accuracy"),
        best_parameters=_searched(trial, searched),
    )


def _searched(trial: TrialView | None, names: set[str]) -> dict[str, str | float | int | bool]:
    parameters = trial.parameters if trial else {}
    return {name: parameters[name] for name in sorted(names & parameters.keys(), key=importance_order)}


def _differences(views: Sequence[ExperimentView]) -> list[Difference]:
    fields = [_fields(view) for view in views]
    names = dict.fromkeys(name for one in fields for name in one)  # in the order of the specs
    rows = {name: [one.get(name) for one in fields] for name in names}
    return [Difference(name=name, values=values) for name, values in rows.items() if len(set(values)) > 1]


def _fields(view: ExperimentView) -> dict[str, str]:
    """Every field of the spec as text; of those that may change, the current value."""
    spec: dict[str, Any] = {name: value for name, value in view.spec.items() if name not in IDENTITY}
    return {
        name: text
        for name, text in described({**spec, CONTROLS: view.controls}).items()
        if not any(name == path or name.startswith(f"{path}.") for path in SPEC_PATHS.values())
    }


def _runs_url(views: Sequence[ExperimentView]) -> str | None:
    homes, runs = [view.mlflow_experiment_id for view in views], [view.mlflow_run_id for view in views]
    base = _mlflow(views)
    if base is None or None in homes or None in runs:
        return None
    return base + comparison_path([str(home) for home in homes], [str(run) for run in runs], views[0].mlflow_workspace)


def _charts_url(views: Sequence[ExperimentView], best: Sequence[Sequence[TrialView]]) -> str | None:
    base, runs = _mlflow(views), [trial.mlflow_run_id for trials in best for trial in trials if trial.mlflow_run_id]
    if base is None or not runs or len({view.metric for view in views}) > 1:
        return None
    objective = Objective.model_validate({"metric": views[0].metric})
    homes = [str(view.mlflow_experiment_id) for view in views]
    return base + charts_path(homes, runs, objective, views[0].mlflow_workspace)


def _mlflow(views: Sequence[ExperimentView]) -> str | None:
    """The address of MLflow's pages; None where an experiment has none there, or another one, and for experiments in
    different workspaces, which no page shows together."""
    bases = {((view.mlflow_url or "").partition("/#/")[0], view.mlflow_workspace) for view in views}
    return bases.pop()[0] or None if len(bases) == 1 else None
