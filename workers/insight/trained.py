"""Trained: what each step of a path gained that an experiment trained, such as the one of `rung insight ID --path`.

Pure functions. Owns which experiments train a path, and the interval of a step. It must not know files.
"""

from __future__ import annotations

import math
from statistics import fmean

from scipy import stats

from search_spaces.insight import Interval, TrainedStep
from search_spaces.protocol import TrialState
from search_spaces.replicates import replicate_number
from search_spaces.sampling import NOT_APPLICABLE
from search_spaces.searched import searched_parameters
from search_spaces.searchers.drawn import DrawnSearcherSpec
from workers.insight.evidence import Evidence
from workers.insight.intervals import LEVEL
from workers.state.trial_table import Trial


def trained_path(evidence: Evidence) -> list[TrainedStep]:
    """The trials in their order, each with what differs from the one before. Empty unless the spec names the
    configuration of each trial and has all of them trained again with fresh seeds."""
    spec = evidence.spec
    searcher, numbers = spec.searcher, sorted(evidence.every)
    if not isinstance(searcher, DrawnSearcherSpec) or not 1 < len(numbers) == len(searcher.initial):
        return []
    if spec.num_samples != len(numbers) or spec.finalists.trials < len(numbers):
        return []
    values = [_values(evidence, number) for number in numbers]
    reach = _reach(values)
    found: list[TrainedStep] = []
    for place, number in enumerate(numbers):
        gain, names = None, []
        if place:
            gain = _gain(values[place - 1], values[place], spec.objective.sign, reach)
            names = _changed(evidence, evidence.every[numbers[place - 1]], evidence.every[number])
        mean = fmean(values[place]) if values[place] else None
        found.append(TrainedStep(trial=number, names=names, values=values[place], mean=mean, gain=gain))
    return found


def _values(evidence: Evidence, number: int) -> list[float]:
    """The best values of a trial and of its runs with fresh seeds. Nobody chose among them, so all count."""
    runs = [replicate_number(number, index) for index in range(evidence.spec.finalists.seeds)]
    every = [evidence.every[number], *(evidence.replicates[run] for run in runs if run in evidence.replicates)]
    return [run.best_value for run in every if run.state is TrialState.COMPLETED and run.best_value is not None]


def _reach(values: list[list[float]]) -> float | None:
    """Half of the interval of a single value: Student's t with the standard deviation of all configurations together
    (Fisher's least significant difference). None where no configuration has two values."""
    freedom = sum(len(one) - 1 for one in values if one)
    if freedom < 1:
        return None
    squares = sum((value - fmean(one)) ** 2 for one in values if one for value in one)
    return float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(squares / freedom)


def _gain(before: list[float], after: list[float], sign: int, reach: float | None) -> Interval | None:
    if reach is None or not before or not after:
        return None
    value = sign * (fmean(after) - fmean(before))
    width = reach * math.sqrt(1 / len(before) + 1 / len(after))
    return Interval(value=value, low=value - width, high=value + width)


def _changed(evidence: Evidence, before: Trial, after: Trial) -> list[str]:
    """The searched hyperparameters that differ; of another alternative, also those that only one of the two has."""
    names = sorted(searched_parameters(evidence.spec.search_space.model_dump(mode="json")))
    first, second = ({name: one.parameters.get(name, NOT_APPLICABLE) for name in names} for one in (before, after))
    return [name for name in names if first[name] != second[name]]
