"""Forecast: how many epochs a search will train, and how many hours that takes, before it starts. Pure.

Where a rule compares trials, the search is simulated many times with made-up trials: each has a quality, which each
rung shows with an error, and later trials are better by as much as a searcher learns. How large both are was measured
in searches on real learning curves (docs/benchmarks.md). Always with the same random numbers, so that a spec has one
forecast. It must not know where times were measured.
"""

from __future__ import annotations

import math
import random
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles

from search_spaces.experiment import ExperimentSpec
from search_spaces.sampling import count_distinct
from search_spaces.searchers.drawn import DrawnSearcherSpec

ROUNDS = 60  # simulated searches
SIMULATED = 300  # trials of each; further ones take as many epochs as the last of these
LAST = 100
#: Of a rung, in standard deviations of the quality of trials.
LEAST_ERROR, LARGEST_ERROR = 0.1, 0.6
#: By how much the quality grows while the number of trials grows by a factor of e: of a searcher that learns, at most.
MOST_LEARNED = 0.4
#: Of 20 simulated searches, one is below the low number and one above the high one.
TAIL = 20
HOUR_S = 3600.0


@dataclass(frozen=True)
class Range:
    """What is expected, and between which numbers it will probably be."""

    low: float
    expected: float
    high: float


@dataclass(frozen=True)
class Measured:
    """What similar trials took. `epochs_s`: the seconds of an epoch of each, at least one. `overhead_s`: seconds of a
    slot for each trial besides its epochs, such as the start of its process."""

    epochs_s: Sequence[float]
    overhead_s: float = 0.0


def count_trials(spec: ExperimentSpec) -> int:
    """Trials of the search: fewer than asked for where the search space has no more configurations."""
    searcher, wanted = spec.searcher, spec.num_samples
    if isinstance(searcher, DrawnSearcherSpec) and not searcher.repeats(spec.search_space):
        return int(min(wanted, count_distinct(spec.search_space)))
    return wanted


def trial_epochs(spec: ExperimentSpec) -> Range:
    """Epochs of all trials together, with those of the finalists. A goal or a budget may end the search earlier."""
    found = [_simulate(spec, random.Random(seed)) for seed in range(ROUNDS if _rungs(spec) else 1)]
    low, *_, high = quantiles(found, n=TAIL) if len(found) > 1 else found * 2
    expected = fmean(found)
    patience = spec.early_stopping.patience
    if patience is not None:  # all trials may lose it, or none
        part = min(1.0, (patience + 1) / spec.max_epochs)
        low, expected = low * part, expected * (1 + part) / 2
    return Range(min(low, expected), expected, max(expected, high))


def slot_hours(spec: ExperimentSpec, epochs: Range, measured: Measured) -> Range:
    """Hours of slots, with the mean of the times of similar trials, and with those of the faster and of the slower half
    of them. At most what the budget of the spec allows."""
    mean = fmean(measured.epochs_s)
    fast, _, slow = (
        quantiles(measured.epochs_s, n=4, method="inclusive") if len(measured.epochs_s) > 1 else (mean, mean, mean)
    )
    times = (epochs.low * min(fast, mean), epochs.expected * mean, epochs.high * max(slow, mean))
    overhead_s, most = count_trials(spec) * measured.overhead_s, _hours_of_budget(spec)
    return Range(*(min((seconds + overhead_s) / HOUR_S, most) for seconds in times))


def _rungs(spec: ExperimentSpec) -> tuple[int, ...]:
    return spec.early_stopping.rungs(spec.max_epochs) if spec.early_stopping.keeps < 1 else ()


def _simulate(spec: ExperimentSpec, generator: random.Random) -> float:
    """The epochs of one search whose trials come one after the other."""
    trials, rungs, keeps = count_trials(spec), _rungs(spec), spec.early_stopping.keeps
    error = generator.uniform(LEAST_ERROR, LARGEST_ERROR)
    learned = generator.uniform(0, MOST_LEARNED) if spec.searcher.learns(spec.search_space) else 0.0
    seen: list[list[float]] = [[] for _ in rungs]
    epochs: list[int] = []
    for number in range(min(trials, SIMULATED)):
        quality = generator.gauss(0, 1) + learned * math.log1p(number)
        ended = spec.max_epochs
        for rung, before in zip(rungs, seen, strict=True):
            value = quality + generator.gauss(0, error)
            continues = not before or value >= _cutoff(before, keeps)
            insort(before, value)
            if not continues:
                ended = rung
                break
        epochs.append(ended)
    total = sum(epochs) + max(0, trials - SIMULATED) * fmean(epochs[-LAST:])
    return total + _of_finalists(spec, total, epochs.count(spec.max_epochs))


def _cutoff(ordered: Sequence[float], keeps: float) -> float:
    """The value that only the part `keeps` exceeds, interpolated as `early_stopping.asha` does."""
    position = (len(ordered) - 1) * (1 - keeps)
    low = math.floor(position)
    below, above = ordered[low], ordered[min(low + 1, len(ordered) - 1)]
    return below + (above - below) * (position - low)


def _of_finalists(spec: ExperimentSpec, spent: float, completed: int) -> float:
    settings = spec.finalists
    trials = min(settings.trials, completed)
    epochs = float(trials * settings.seeds * spec.max_epochs)
    is_affordable = settings.max_share is None or epochs <= settings.max_share * spent
    return epochs if trials > 1 and is_affordable else 0.0


def _hours_of_budget(spec: ExperimentSpec) -> float:
    """Slot hours that the spec allows."""
    gpus, budget = spec.resources.gpus, spec.budget
    of_gpus = math.inf if budget.gpu_hours is None or not gpus else budget.gpu_hours / gpus
    return min(of_gpus, math.inf if budget.slot_hours is None else budget.slot_hours)
