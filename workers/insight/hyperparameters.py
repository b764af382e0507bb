"""Hyperparameters: the trials of a search as numbers, and which hyperparameters made the difference.

Owns which trials and which hyperparameters are analyzed together, and at which epoch. It must not know files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.domains import Choice, Interval
from search_spaces.insight import Bar, Group, Importance
from search_spaces.positions import place_of
from search_spaces.sampling import domains, without_indices
from workers.insight import importance
from workers.insight.evidence import Evidence
from workers.state.trial_table import Trial

REACHED = 0.8  # share of the trials that must have a value at the epoch that is analyzed
FEWEST_OF_BRANCH = 20  # trials of one alternative: what it adds to the trials of all is still more than noise
MOST_BRANCHES = 6  # the largest ones: each takes up to 3 s
LARGEST_LOSSES = 0.9  # quantile to which losses are cut, which have no upper limit


def important(evidence: Evidence) -> Importance:
    """The importance of the hyperparameters that all trials have, and of those of each alternative."""
    tried = [trial for trial in evidence.every.values() if trial.curve]
    if not any(True for _ in domains(evidence.spec.search_space)):
        return Importance(note="the spec searches no hyperparameter")
    if len(tried) < importance.FEWEST_TRIALS:
        few = f"too few trials: {importance.FEWEST_TRIALS} are needed, and {len(tried)} finished an epoch"
        return Importance(note=few)
    epoch, known = analyzed(evidence)
    if len(known) < importance.FEWEST_TRIALS or len(set(known.values())) == 1:
        return Importance(epoch=epoch, note="too few trials have different values")
    trials = [trial for trial in tried if trial.number in known]
    common = set.intersection(*(set(trial.sample) for trial in trials))
    groups = []
    if common:
        groups.append(_group(evidence, None, trials, sorted(common), sorted(common), known))
    for path, index in _branches(evidence, trials):
        chosen = [trial for trial in trials if trial.sample.get(path) == index]
        shared = set.intersection(*(set(trial.sample) for trial in chosen))
        own = sorted(name for name in shared if name.startswith(f"{path}[{index}]"))
        if own and len({known[trial.number] for trial in chosen}) > 1:
            within = f"{without_indices(path)} = {alternative(evidence, path, index)}"
            groups.append(_group(evidence, within, chosen, sorted(shared), own, known))
    return Importance(epoch=epoch, groups=groups)


def analyzed(evidence: Evidence) -> tuple[int, dict[int, float]]:
    """The epoch that is analyzed, and the values of the trials that have one there, by number; larger is better."""
    tried = [trial for trial in evidence.every.values() if trial.curve]
    if not tried:
        return 0, {}
    epoch = _epoch(evidence, tried)
    values = _values_at(evidence, tried, epoch)
    return epoch, {number: value for number, value in values.items() if math.isfinite(value)}


def alternative(evidence: Evidence, path: str, index: int) -> str:
    """An alternative as a person calls it: its kind, or its value."""
    choice = dict(domains(evidence.spec.search_space))[path]
    if not isinstance(choice, Choice):
        raise TypeError(f"{path} must be a choice (got {choice!r})")
    return label(choice, index)


def label(choice: Choice, index: int) -> str:
    """An alternative as a person calls it: its kind, with its number where others have the same, or its value."""
    names = [str(getattr(item, "kind", None) or _plain(item)) for item in choice.choice]
    return f"{names[index]} ({index})" if names.count(names[index]) > 1 else names[index]


def _plain(item: Any) -> Any:
    return {item.keyword: list(item.bounds)} if isinstance(item, Interval) else item


def _epoch(evidence: Evidence, tried: Sequence[Trial]) -> int:
    """The last of the rungs, or of all epochs, that most trials reached; one that diverged counts as if it had."""
    lengths = [len(trial.curve) if _is_finite(trial) else evidence.spec.max_epochs for trial in tried]
    levels = (*evidence.spec.early_stopping.rungs(evidence.spec.max_epochs), evidence.spec.max_epochs)
    reached = [level for level in levels if sum(length >= level for length in lengths) >= REACHED * len(tried)]
    return max(reached, default=0) or sorted(lengths)[math.floor((1 - REACHED) * len(lengths))]


def _is_finite(trial: Trial) -> bool:
    return all(map(math.isfinite, trial.curve))


def _values_at(evidence: Evidence, tried: Sequence[Trial], epoch: int) -> dict[int, float]:
    """The objective of each trial at an epoch: the worst one for a trial that diverged by then, NaN for others that
    have none."""
    sign = evidence.spec.objective.sign
    values = {}
    for trial in tried:
        diverged = not all(map(math.isfinite, trial.curve[:epoch]))
        values[trial.number] = -math.inf if diverged else math.nan
        if not diverged and len(trial.curve) >= epoch:
            values[trial.number] = sign * trial.curve[epoch - 1]
    finite = [value for value in values.values() if math.isfinite(value)]
    if not finite:
        return values
    worst = min(finite) if sign > 0 else float(np.quantile(finite, 1 - LARGEST_LOSSES))
    return {number: max(value, worst) if value == value else value for number, value in values.items()}


def _branches(evidence: Evidence, trials: Sequence[Trial]) -> list[tuple[str, int]]:
    """The alternatives that hold domains of their own, those with the most trials first."""
    choices = [path for path, domain in domains(evidence.spec.search_space) if isinstance(domain, Choice)]
    counts = Counter((path, int(trial.sample[path])) for trial in trials for path in choices if path in trial.sample)
    inner = {path for path, _ in domains(evidence.spec.search_space)}
    found = [
        branch
        for branch, count in counts.most_common()
        if count >= FEWEST_OF_BRANCH and any(path.startswith(f"{branch[0]}[{branch[1]}]") for path in inner)
    ]
    return found[:MOST_BRANCHES]


def _group(
    evidence: Evidence,
    within: str | None,
    trials: Sequence[Trial],
    columns: Sequence[str],
    shown: Sequence[str],
    values: dict[int, float],
) -> Group:
    """The bars of the `shown` columns. All `columns` are analyzed: what the others explain is no noise."""
    known = dict(domains(evidence.spec.search_space))
    places: NDArray[np.float64] = np.array(
        [[place_of(known[path], trial.sample[path]) for path in columns] for trial in trials]
    )
    outcomes = [values[trial.number] for trial in trials]
    found = importance.shares(places, outcomes, evidence.spec.seed, fewest=FEWEST_OF_BRANCH)
    bars = [
        Bar(name=without_indices(path), share=bar.share, low=bar.low, high=bar.high, noise=found.is_noise(index))
        for index, (path, bar) in enumerate(zip(columns, found.bars, strict=True))
        if path in shown
    ]
    bars.sort(key=lambda bar: -bar.share)
    return Group(within=within, trials=min(len(trials), importance.MOST_TRIALS), bars=bars)
