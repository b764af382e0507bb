"""Rung search: a model of how good trials are at one rung, also of those that still run or were stopped there.

Owns which rung is modeled and what it knows of each trial. A searcher that uses it names an Optuna sampler. The idea
is that of BOHB (Falkner et al., 2018): under early stopping few trials complete, and those that do are no fair sample,
so that a model of completed trials learns little (docs/decisions/0022).
"""

from __future__ import annotations

import math
from heapq import nsmallest

from search_spaces.sampling import Sample
from search_spaces.searchers.base import Finding, SearchProblem, TrialResult
from search_spaces.searchers.optuna_search import OptunaStudy, Sampler

#: The level after all rungs: the best value of a trial that trained all of its epochs.
END = math.inf
#: Of the trials, the newest WINDOW to 2 WINDOW are modeled, and of older ones the best: Optuna's sampler takes at most
#: 25 trials for good ones, and older ones have less weight. A proposal takes time in proportion to the number of all.
WINDOW, BEST = 250, 25


class RungSearch:
    """The study of the highest rung at which the sampler's `startup_trials` trials have a value; at first of the first.

    In it, a trial is as good as its value at that rung. One that was stopped at an earlier rung is worse, the worse the
    earlier, and one that diverged before it is worse than all others. One that has not reached it yet counts as the
    sampler counts running trials, and one that ended before it otherwise (it lost patience, failed or was canceled) is
    not counted. Of a long search, a part is modeled.

    `forgets_stopped`: whether a trial that was stopped at an earlier rung is not counted either.
    """

    def __init__(self, problem: SearchProblem, sampler: Sampler, forgets_stopped: bool) -> None:
        self._problem = problem
        self._sampler = sampler
        self._forgets_stopped = forgets_stopped
        self._enough = sampler.startup_trials
        self._samples: dict[int, Sample] = {}
        self._values: dict[float, dict[int, float]] = {level: {} for level in (*problem.rungs, END)}
        self._ended: dict[int, TrialResult] = {}
        self._level = next(iter(self._values))
        self._older: tuple[int, tuple[int, ...]] = (0, ())  # the first trial that is not old, and the best before it
        self._study = self._new_study()

    def learned(self) -> bool:
        self._choose_study()
        return self._study.told >= self._enough

    def draw(self, number: int, attempt: int) -> dict[str, float]:
        self._choose_study()
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
        self._ended[result.number] = result
        self._tell_end(result)

    def _record(self, level: float, number: int, value: float) -> None:
        self._values[level][number] = value
        if level == self._level:
            self._study.complete(number, value)

    def _tell_end(self, result: TrialResult) -> None:
        """Nothing happens to a trial that has a value at the present level."""
        if result.finding is Finding.DIVERGED:
            self._study.prune(result.number)
        elif self._was_stopped(result):
            self._study.prune(result.number, result.curve)
        else:
            self._study.forget(result.number)

    def _was_stopped(self, result: TrialResult) -> bool:
        """At a rung, where it was worse than others, and this counts."""
        at_a_rung = result.finding is Finding.EARLY_STOPPED and len(result.curve) in self._values
        return at_a_rung and not self._forgets_stopped

    def _choose_study(self) -> None:
        """Levels only rise, because no value is ever withdrawn. Seldom is another study chosen, which takes a while to
        fill."""
        level = max((level for level, values in self._values.items() if len(values) >= self._enough), default=0)
        level = max(level, self._level)
        first = max(0, max(self._samples, default=0) // WINDOW - 1) * WINDOW
        values, sign = self._values[level], self._problem.sign
        rated = ((-sign * value, number) for number, value in values.items() if number < first)
        most = int(min(max(BEST, self._enough), len(values)))
        older = first, tuple(number for _, number in nsmallest(most, rated))
        if (level, older) == (self._level, self._older):
            return
        self._level, self._older, self._study = level, older, self._new_study()
        for number in sorted({*older[1], *(number for number in self._samples if number >= first)}):
            result = self._ended.get(number)
            self._study.add(number, self._samples[number])
            if number in values:
                self._study.complete(number, values[number])
            elif result is not None:
                self._tell_end(result)

    def _new_study(self) -> OptunaStudy:
        return OptunaStudy(self._problem, self._sampler)
