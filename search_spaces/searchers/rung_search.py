"""Rung search: a model of how good trials are at one rung, also of those that still run or were stopped there.

Owns which rung is modeled and what it knows of each trial. A searcher that uses it names an Optuna sampler. The idea
is that of BOHB (Falkner et al., 2018): under early stopping few trials complete, and those that do are no fair sample,
so that a model of completed trials learns little (docs/decisions/0022).
"""

from __future__ import annotations

import math

from search_spaces.sampling import Sample
from search_spaces.searchers.base import Finding, SearchProblem, TrialResult
from search_spaces.searchers.optuna_search import OptunaStudy, Sampler

#: The level after all rungs: the best value of a trial that trained all of its epochs.
END = math.inf


class RungSearch:
    """The study of the highest rung at which the sampler's `startup_trials` trials have a value; at first of the first.

    In it, a trial is as good as its value at that rung. One that diverged before it is worse than all others, one that
    has not reached it yet counts as the sampler counts running trials, and one that ended before it is not counted.
    """

    def __init__(self, problem: SearchProblem, sampler: Sampler) -> None:
        self._problem = problem
        self._sampler = sampler
        self._enough = sampler.startup_trials
        self._samples: dict[int, Sample] = {}
        self._values: dict[float, dict[int, float]] = {level: {} for level in (*problem.rungs, END)}
        self._ended: dict[int, Finding] = {}
        self._level = next(iter(self._values))
        self._study = self._new_study()

    def learned(self) -> bool:
        self._choose_level()
        return self._study.told >= self._enough

    def draw(self, number: int, attempt: int) -> dict[str, float]:
        self._choose_level()
        return self._study.draw(number, attempt)

    def replay(self, number: int, sample: Sample) -> None:
        self._samples[number] = sample
        self._study.add(number, sample)

    def report(self, number: int, epoch: int, value: float) -> None:
        if epoch in self._values and math.isfinite(value):
            self._record(epoch, number, value)

    def observe(self, result: TrialResult) -> None:
        if result.number not in self._samples:
            return
        if result.finding is Finding.COMPLETED and result.best_value is not None:
            self._record(END, result.number, result.best_value)
        self._ended[result.number] = result.finding
        self._tell_end(result.number)

    def _record(self, level: float, number: int, value: float) -> None:
        self._values[level][number] = value
        if level == self._level:
            self._study.complete(number, value)

    def _tell_end(self, number: int) -> None:
        """Nothing happens to a trial that has a value at the present level."""
        if self._ended[number] is Finding.DIVERGED:
            self._study.prune(number)
        else:
            self._study.forget(number)

    def _choose_level(self) -> None:
        """Levels only rise, because no value is ever withdrawn, so that each study is filled once."""
        level = max((level for level, values in self._values.items() if len(values) >= self._enough), default=0)
        if level <= self._level:
            return
        self._level, self._study = level, self._new_study()
        for number in sorted(self._samples):
            self._study.add(number, self._samples[number])
            if number in self._values[level]:
                self._study.complete(number, self._values[level][number])
            elif number in self._ended:
                self._tell_end(number)

    def _new_study(self) -> OptunaStudy:
        return OptunaStudy(self._problem, self._sampler)
