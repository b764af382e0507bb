"""Finalists: the trials that are trained again with fresh seeds.

Owns their choice; `workers.state.fresh_seeds` says which of them wins. Pure functions of the trial table. It must not
know Ray, files or how trials are run.
"""

from __future__ import annotations

import math
from statistics import fmean

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import TrialState
from search_spaces.replicates import replicate_number
from workers.state.fresh_seeds import FEWEST
from workers.state.trial_table import Trial, TrialTable

LAST_EPOCHS = 3  # whose mean ranks the trials: less of it is chance than of the best epoch


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


def _late(trial: Trial, sign: int) -> float:
    """The mean of the last epochs; the worst possible value where one of them is not finite."""
    late = trial.curve[-LAST_EPOCHS:]
    return fmean(late) if late and all(map(math.isfinite, late)) else -sign * math.inf
