"""Summary: what an experiment's own run in MLflow says once the experiment has ended.

Owns its metrics, tags and status, and the names of the metrics that it has while the search runs. The service sets the
same status where no driver is left to do it (`service.cleanup.finalizer`). It must not know MLflow's client, nor why
the experiment ended.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, stdev

from search_spaces.insight import Insight
from search_spaces.protocol import PARENT_RUN_STATUS, Phase, RunStatus, Tag, TrialState, Winner
from search_spaces.replicates import is_replicate, replicated, trial_of
from search_spaces.scores import hidden
from workers.state.trial_table import TrialTable

BEST_EPOCH = "best_epoch"
#: Before the names of hyperparameters: MLflow's page of a run has a section of charts for what is before a slash.
IMPORTANCE = "importance"
#: What is known of the winner on the test set, under the names of `Winner`.
TESTED = (
    "test_accuracy",
    "test_balanced_accuracy",
    "test_macro_f1",
    "test_top5_accuracy",
    "test_calibration_error",
    "test_loss",
)


@dataclass(frozen=True)
class Summary:
    """`step` is that of the metrics: it is larger each time that an extended experiment ends. `remarks`: what the note
    of the run should also say. `importance`: the share of the differences that each hyperparameter explains."""

    status: RunStatus
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    step: int = 0
    remarks: tuple[str, ...] = ()
    importance: Mapping[str, float] = field(default_factory=dict)


def summarize(
    phase: Phase,
    reason: str,
    table: TrialTable,
    runs: Mapping[int, str],
    winner: Winner | None,
    metric: str,
    importance: Mapping[str, float] | None = None,
    remarks: Iterable[str] = (),
) -> Summary:
    """The summary of an experiment that ended in `phase` with these trials, compared by `metric`.

    The best trial of the search is named, and the winner, which fresh seeds may have chosen: what was measured on the
    test set is of its run. `runs` are their runs in MLflow; `importance` has the share of the differences that each
    hyperparameter explains, and `remarks` what else the note should say.
    """
    metrics: dict[str, float] = {}
    of_winner = ""
    tags: dict[str, str] = {Tag.STATE: phase.upper(), Tag.REASON: reason}
    best = table.best()
    if best is not None and best.best_value is not None:
        metrics = best_metrics(metric, best.best_value, best.number)
        tags |= best_tags(best.number, runs[best.number])
    metrics |= count_metrics(table.counts())
    metrics |= {f"{IMPORTANCE}/{name}": share for name, share in (importance or {}).items()}
    if winner is not None:
        metrics |= {name: value for name in TESTED if (value := getattr(winner, name)) is not None}
        number = trial_of(winner.trial)
        metrics |= {"winner_trial": float(number), "winner_value": winner.value}
        tags |= {Tag.MODEL: winner.model_uri or "", Tag.WINNER_TRIAL: str(number)}
        if run := runs.get(winner.trial):
            tags[Tag.WINNER_RUN_ID] = run
        metrics |= _replicate_metrics(table, winner.trial)
        of_winner = hidden("test", winner.test_accuracy, winner.test_balanced_accuracy)
    return Summary(
        PARENT_RUN_STATUS[phase],
        metrics,
        tags,
        step=len(table.trials),
        remarks=tuple(filter(None, (of_winner, *remarks))),
        importance=importance or {},
    )


def shares_of(insight: Insight | None) -> dict[str, float]:
    """The share of the differences between all trials that each hyperparameter explains, the largest first; none
    without an insight, and none that is no more than chance."""
    groups = insight.importance.groups if insight else []
    return {bar.name: bar.share for group in groups if group.within is None for bar in group.bars if not bar.noise}


def _replicate_metrics(table: TrialTable, winner: int) -> dict[str, float]:
    """The mean over fresh seeds of the trial that won by them, and their standard deviation.

    NaN where they do not decide: an earlier end of an extended search may have logged them, and MLflow deletes none.
    """
    if not is_replicate(winner):
        names = ("replicate_mean", "replicate_sd") if any(map(is_replicate, table.trials)) else ()
        return dict.fromkeys(names, math.nan)
    values = [
        trial.best_value
        for trial in table.trials.values()
        if is_replicate(trial.number)
        and replicated(trial.number)[0] == replicated(winner)[0]
        and trial.best_value is not None
    ]
    spread = {"replicate_sd": stdev(values)} if len(values) > 1 else {}
    return {"replicate_mean": fmean(values), **spread} if values else {}


def best_name(metric: str) -> str:
    """The metric of runs of trials, and of the parent, that has the best value of the objective `metric`."""
    return f"best_{metric}"


def count_metrics(counts: Mapping[TrialState, int]) -> dict[str, float]:
    """The number of trials in each state, also where there are none now.

    Those that wait for their start count as running.
    """
    running = counts.get(TrialState.PENDING, 0) + counts.get(TrialState.RUNNING, 0)
    shown = {**{state: counts.get(state, 0) for state in TrialState}, TrialState.RUNNING: running}
    del shown[TrialState.PENDING]
    return {f"trials_{state.lower()}": float(count) for state, count in shown.items()}


def best_metrics(metric: str, value: float, number: int) -> dict[str, float]:
    """`best_value` has the same name whatever the objective is."""
    return {"best_value": value, best_name(metric): value, "best_trial": float(number)}


def best_tags(number: int, run: str | None) -> dict[str, str]:
    tags: dict[str, str] = {Tag.BEST_TRIAL: str(number)}
    return tags | {Tag.BEST_RUN_ID: run} if run else tags
