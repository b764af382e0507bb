"""Trials: the leaderboard of a search, the curves of a trial and why it stopped."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from search_spaces.sampling import NOT_APPLICABLE
from search_spaces.searched import importance_order, short_name
from service.contract.schemas import Curves, TrialView
from service.presentation.text import Fact, Table, figure, one_line


@dataclass(frozen=True)
class Leaderboard:
    """Trials in the order given: what every trial has, its parameters, and why each stopped."""

    trials: Table
    parameters: Table
    reasons: tuple[str, ...]


def leaderboard(trials: Sequence[TrialView], metric: str, searched: Collection[str] = ()) -> Leaderboard:
    """`at` is the epoch of the best value. Of the parameters, the `searched` ones have a column where the trials have
    any; without them, those in which the trials differ."""
    names = shown_parameters(trials, searched) or differing_parameters(trials)
    fixed = tuple(
        (str(trial.trial), str(trial.state), str(trial.epoch), figure(trial.best_value), figure(trial.best_epoch))
        for trial in trials
    )
    values = tuple(tuple(figure(trial.parameters.get(name, NOT_APPLICABLE)) for name in names) for trial in trials)
    return Leaderboard(
        Table(
            ("trial", "state", "epoch", metric.removeprefix("validation_"), "at"),
            fixed,
            numeric=frozenset({0, 2, 3, 4}),
            states=frozenset({1}),
        ),
        Table(tuple(short_name(name, names) for name in names), values),
        tuple(_reason(trial, metric) for trial in trials),
    )


def curves(of: Curves) -> Table:
    """One row for each epoch, one column for each metric."""
    points = {name: {point.step: point.value for point in line} for name, line in of.metrics.items()}
    steps = sorted({step for line in points.values() for step in line})
    rows = tuple((str(step), *(figure(line.get(step)) for line in points.values())) for step in steps)
    headings = ("epoch", *of.metrics)
    return Table(headings, rows, numeric=frozenset(range(len(headings))))


def trial_outcome(trial: TrialView) -> Fact:
    """How far a trial came, and why it stopped."""
    best = f", best at epoch {trial.best_epoch}" if trial.best_epoch else ""
    reason = f": {one_line(trial.stop_reason)}" if trial.stop_reason else ""
    return Fact(f"trial {trial.trial}", f"{trial.state} after epoch {trial.epoch}{best}{reason}")


def differing_parameters(trials: Sequence[TrialView]) -> list[str]:
    """Names of the parameters in which trials differ: the optimizer and its rate first, then other kinds.

    A parameter that has only one value wherever it applies is left out: the kind that it belongs to says as much.
    """
    names = {name for trial in trials for name in trial.parameters}
    values = {name: {trial.parameters.get(name, NOT_APPLICABLE) for trial in trials} for name in names}

    def is_implied(name: str) -> bool:
        family, _, last = name.rpartition(".")
        has_one_value = len(values[name] - {NOT_APPLICABLE}) == 1
        return last != "kind" and has_one_value and len(values.get(f"{family}.kind", ())) > 1

    varied = [name for name in names if len(values[name]) > 1 and not is_implied(name)]
    return sorted(varied, key=importance_order)


def shown_parameters(trials: Sequence[TrialView], searched: Collection[str]) -> list[str]:
    """Names of the searched parameters that any of the trials has."""
    names = {name for trial in trials for name, value in trial.parameters.items() if value != NOT_APPLICABLE}
    return sorted(names & set(searched), key=importance_order)


def _reason(trial: TrialView, metric: str) -> str:
    """Why a trial stopped, without the name of the metric, which is in the heading."""
    return one_line(trial.stop_reason).replace(f": {metric} ", ": ")
