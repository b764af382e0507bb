"""Fresh seeds: which trials can be compared by their replicates, and which trial wins.

Owns when the replicates decide, and who is the winner of a search. Pure functions of the trials. It must not know how
replicates are chosen or trained, nor what is made of the comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from search_spaces.experiment import ExperimentSpec
from search_spaces.finalist_ties import is_equal
from search_spaces.protocol import TrialState
from search_spaces.replicates import is_replicate, replicate_number, replicated
from workers.state.trial_table import Trial, TrialTable

FEWEST = 2  # of one there is nothing to choose
TRIED = frozenset({TrialState.COMPLETED, TrialState.DIVERGED})


@dataclass(frozen=True)
class Replicated:
    """A trial of the search with its runs, one for each fresh seed, and the mean of their best values."""

    trial: int
    runs: list[Trial]
    mean: float


@dataclass(frozen=True)
class Won:
    """The winner: a trial of the search, and its run whose weights are registered: itself or one of its replicates."""

    trial: Trial
    run: Trial

    @property
    def by_fresh_seeds(self) -> bool:
        return self.run is not self.trial


def winner(spec: ExperimentSpec, table: TrialTable) -> Won | None:
    """The winner of a search; None where no trial has a value.

    It is the trial with the best mean over its fresh seeds, with its run of the lowest validation loss; where the
    replicates do not decide, it is the best trial of the search.
    """
    best = table.best()
    if best is None:
        return None
    order = ranked(table.trials, best.number, spec.finalists.seeds, spec.objective.sign)
    if not order:
        return Won(best, best)
    return Won(table.trials[order[0].trial], min(order[0].runs, key=lambda run: (_loss(run), run.number)))


def ranked(trials: Mapping[int, Trial], best: int, seeds: int, sign: int) -> list[Replicated]:
    """The trials all of whose `seeds` replicates completed, the best mean first; empty where they do not decide.

    `trials` are by number, `best` is the best one of the search: unless it was tried with each seed itself, as it was
    not if it was found after the others were, or if its replicates were ended by a person, the budget or a failure, it
    is not beaten. A seed with which it diverges was tried: it loses then, also to a single other trial.
    """
    own = [trials.get(replicate_number(best, index)) for index in range(seeds)]
    if any(run is None or run.state not in TRIED for run in own):
        return []
    groups: dict[int, dict[int, Trial]] = {}
    for number, run in sorted(trials.items()):
        if is_replicate(number) and run.state is TrialState.COMPLETED and run.best_value is not None:
            groups.setdefault(replicated(number)[0], {})[number] = run
    found = [
        Replicated(number, list(runs.values()), fmean(run.best_value or 0.0 for run in runs.values()))
        for number, runs in groups.items()
        if len(runs) == seeds
    ]
    is_alone = len(found) < FEWEST and any(one.trial == best for one in found)
    return [] if is_alone else _in_order(found, sign)


def _in_order(found: Sequence[Replicated], sign: int) -> list[Replicated]:
    """The best mean first; of those that are equal to it except for rounding, the trial with the lowest number."""
    order = sorted(found, key=lambda one: (-sign * one.mean, one.trial))
    equal = [one for one in order if is_equal(one.mean, order[0].mean)]
    return sorted(equal, key=lambda one: one.trial) + order[len(equal) :]


def _loss(run: Trial) -> float:
    loss = run.losses[(run.best_epoch or 1) - 1]
    return math.inf if loss is None or not math.isfinite(loss) else loss
