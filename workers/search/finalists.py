"""Finalists: the trials that are trained again with fresh seeds, and which of them wins.

Owns the choice before and after. Pure functions of the trial table. It must not know Ray, files or how trials are run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import TrialState
from search_spaces.replicates import is_replicate, replicate_number, replicated
from workers.state.trial_table import Trial, TrialTable

LAST_EPOCHS = 3  # whose mean ranks the trials: less of it is chance than of the best epoch
FEWEST = 2  # of one there is nothing to choose


def replicates(spec: ExperimentSpec, table: TrialTable) -> list[int]:
    """Numbers of the replicates of a search all of whose trials have ended; empty where there should be none.

    Those that began are continued, whatever share of the search they take.
    """
    settings = spec.finalists
    chosen = finalists(spec, table)
    if len(chosen) < FEWEST:
        return []
    numbers = [replicate_number(number, index) for number in chosen for index in range(settings.seeds)]
    if settings.max_share is not None and not any(number in table.trials for number in numbers):
        spent = sum(trial.epoch for trial in table.searched() if not trial.source)
        if len(numbers) * spec.max_epochs > settings.max_share * spent:
            return []
    return numbers


def finalists(spec: ExperimentSpec, table: TrialTable) -> list[int]:
    """Numbers of the best trials: first the winner of the search, then by the mean of their last epochs."""
    best = table.best()
    if best is None or not spec.finalists.trials:
        return []
    sign = spec.objective.sign
    others = [trial for trial in table.searched() if trial is not best and trial.state is TrialState.COMPLETED]
    ranked = sorted(others, key=lambda trial: (-sign * _late(trial, sign), trial.number))
    known = [trial.number for trial in ranked if math.isfinite(_late(trial, sign))]
    return [best.number, *known[: spec.finalists.trials - 1]]


def chosen_run(spec: ExperimentSpec, table: TrialTable) -> Trial | None:
    """The replicate whose weights are registered: of the trial with the best mean over its fresh seeds, the run of the
    lowest validation loss. None where no trial has a value for each of its seeds."""
    groups = runs_by_trial(table)
    complete = {number: runs for number, runs in groups.items() if len(runs) == spec.finalists.seeds}
    means = {number: mean_of(runs) for number, runs in complete.items()}
    known = {number: mean for number, mean in means.items() if mean is not None}
    if len(known) < FEWEST:
        return None
    sign = spec.objective.sign
    best = max(known, key=lambda number: (sign * known[number], -number))
    return min(complete[best], key=lambda run: (_loss(run), run.number))


def runs_by_trial(table: TrialTable) -> dict[int, list[Trial]]:
    """The replicates that completed, by the trial of which they are."""
    found: dict[int, list[Trial]] = {}
    for number, trial in sorted(table.trials.items()):
        if is_replicate(number) and trial.state is TrialState.COMPLETED:
            found.setdefault(replicated(number)[0], []).append(trial)
    return found


def mean_of(runs: Sequence[Trial]) -> float | None:
    """The mean of the best values; None where one has none."""
    values = [run.best_value for run in runs if run.best_value is not None]
    return fmean(values) if values and len(values) == len(runs) else None


def _late(trial: Trial, sign: int) -> float:
    """The mean of the last epochs; the worst possible value where one of them is not finite."""
    late = trial.curve[-LAST_EPOCHS:]
    return fmean(late) if late and all(map(math.isfinite, late)) else -sign * math.inf


def _loss(run: Trial) -> float:
    loss = run.losses[(run.best_epoch or 1) - 1]
    return math.inf if loss is None or not math.isfinite(loss) else loss
