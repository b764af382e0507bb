"""Comparisons: what is shown of experiments side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search_spaces.searched import importance_order
from service.contract.comparison import ComparedExperiment, Comparison
from service.presentation.text import Fact, Table, figure


def compared_results(comparison: Comparison) -> Table:
    """One column for each experiment: how far it is, and its winner with that trial's hyperparameters; as long as there
    is no winner, the best trial."""
    found = comparison.experiments
    shown = [_shown(one) for one in found]
    values = [(one.metric, trial.value) for one, trial in zip(found, shown, strict=True)]
    rows = [
        ("name", *(one.name for one in found)),
        ("state", *(one.state for one in found)),
        ("trials", *(", ".join(f"{count} {state}" for state, count in one.trials.items()) for one in found)),
    ]
    rows += [
        (metric, *(figure(value if own == metric else None) for own, value in values))
        for metric in dict.fromkeys(one.metric for one in found)
    ]
    rows += [
        ("test accuracy", *(figure(one.test_accuracy) for one in found)),
        ("winner", *(figure(one.winner_trial) for one in found)),
        ("best epoch", *(figure(trial.epoch) for trial in shown)),
    ]
    names = sorted({name for trial in shown for name in trial.parameters}, key=importance_order)
    rows += [(name, *(figure(trial.parameters.get(name)) for trial in shown)) for name in names]
    rows.append(("best trial of the search", *(_best_of_search(one) for one in found)))
    return Table(("result", *(one.id for one in found)), tuple(rows))


def compared_specs(comparison: Comparison) -> Table:
    """One row for each field in which the specs differ, one column for each experiment."""
    rows = tuple((one.name, *(figure(value) for value in one.values)) for one in comparison.differences)
    return Table(("spec", *(one.id for one in comparison.experiments)), rows)


def comparison_links(comparison: Comparison) -> list[Fact]:
    """Where MLflow shows the experiments side by side."""
    links = {"MLflow": comparison.mlflow_url, "charts": comparison.mlflow_charts_url}
    return [Fact(label, url) for label, url in links.items() if url]


@dataclass(frozen=True)
class _Shown:
    """The trial that the column of an experiment is about."""

    value: float | None
    epoch: int | None
    parameters: Mapping[str, str | float | int | bool]


def _shown(one: ComparedExperiment) -> _Shown:
    if one.winner_trial is None:
        return _Shown(one.best_value, one.best_epoch, one.best_parameters)
    return _Shown(one.winner_value, one.winner_epoch, one.winner_parameters)


def _best_of_search(one: ComparedExperiment) -> str:
    return "-" if one.best_trial is None else f"{one.best_trial} ({figure(one.best_value)})"
