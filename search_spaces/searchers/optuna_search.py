"""Searchers that draw with one of Optuna's samplers.

Owns the only use of Optuna, which is imported when a search begins. A searcher names its sampler as data; a new one is
a subclass of `OptunaSearcherSpec` in a module of its own.
"""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from search_spaces.domains import Choice, Domain, Interval
from search_spaces.sampling import Sample, resolve
from search_spaces.searchers.base import (
    Finding,
    NumSamples,
    SearchAlgorithm,
    SearcherSpec,
    SearchProblem,
    TrialResult,
)
from search_spaces.spec import Spec

if TYPE_CHECKING:
    import optuna


class OptunaSearcherSpec(SearcherSpec):
    """`sampler` is the name of a class in `optuna.samplers`."""

    sampler: ClassVar[str]
    num_samples: NumSamples = 20

    def trial_count(self, search_space: Spec) -> int:
        return self.num_samples

    def sampler_options(self) -> dict[str, Any]:
        """Arguments of the sampler besides its seed."""
        return {}

    def algorithm(self, problem: SearchProblem) -> SearchAlgorithm:
        return OptunaSearch(problem, self.sampler, self.sampler_options())


class OptunaStudy:
    """A study in memory, whose trials have our numbers. Results of a trial that it does not have are ignored."""

    def __init__(self, problem: SearchProblem, sampler: str, options: dict[str, Any]) -> None:
        import optuna

        optuna.logging.set_verbosity(logging.WARNING)
        self._problem = problem
        self._samplers = optuna.samplers
        self._sampler = sampler
        self._options = options
        self._study = optuna.create_study(direction="maximize" if problem.sign > 0 else "minimize")
        self._open: dict[int, optuna.Trial] = {}

    def propose(self, number: int) -> dict[str, float]:
        self._study.sampler = self._seeded(number)
        return self._ask(number)

    def add(self, number: int, sample: Sample) -> None:
        """A trial that was proposed elsewhere."""
        self._study.sampler = self._samplers.RandomSampler(seed=0)  # it draws nothing: all values are given
        self._study.enqueue_trial(dict(sample))
        self._ask(number)

    def complete(self, number: int, value: float) -> None:
        """The trial is as good as `value`."""
        if (asked := self._open.pop(number, None)) is not None:
            self._study.tell(asked, value)

    def prune(self, number: int, curve: Iterable[float] = ()) -> None:
        """The trial is worse than all complete ones, and the worse, the fewer epochs its curve has."""
        from optuna.trial import TrialState

        if (asked := self._open.pop(number, None)) is not None:
            for epoch, value in enumerate(curve, start=1):
                if math.isfinite(value):
                    asked.report(value, epoch)
            self._study.tell(asked, state=TrialState.PRUNED)

    def forget(self, number: int) -> None:
        """Nothing is known of the trial."""
        from optuna.trial import TrialState

        if (asked := self._open.pop(number, None)) is not None:
            self._study.tell(asked, state=TrialState.FAIL)

    def _ask(self, number: int) -> dict[str, float]:
        sample: dict[str, float] = {}
        trial = self._open[number] = self._study.ask()

        def draw(path: str, domain: Domain) -> float:
            sample[path] = _suggest(trial, path, domain)
            return sample[path]

        resolve(self._problem.search_space, draw)
        return sample

    def _seeded(self, number: int) -> optuna.samplers.BaseSampler:
        """A sampler for one proposal: a seed of its own makes the proposal independent of how often it was drawn."""
        from optuna.exceptions import ExperimentalWarning

        seed = int.from_bytes(hashlib.sha256(f"{self._problem.seed}/proposal/{number}".encode()).digest()[:4], "big")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler: optuna.samplers.BaseSampler = getattr(self._samplers, self._sampler)(seed=seed, **self._options)
            return sampler


class OptunaSearch:
    """One study of whole trials: one that was stopped early is pruned in it, and one without a result is forgotten."""

    def __init__(self, problem: SearchProblem, sampler: str, options: dict[str, Any]) -> None:
        self._study = OptunaStudy(problem, sampler, options)

    def propose(self, number: int) -> dict[str, float] | None:
        return self._study.propose(number)

    def replay(self, number: int, sample: Sample) -> None:
        self._study.add(number, sample)

    def report(self, number: int, epoch: int, value: float) -> None:
        """A trial counts when it has ended."""

    def observe(self, result: TrialResult) -> None:
        if result.finding is Finding.COMPLETED and result.best_value is not None:
            self._study.complete(result.number, result.best_value)
        elif result.finding is Finding.EARLY_STOPPED:
            self._study.prune(result.number, result.curve)
        else:
            self._study.forget(result.number)


def _suggest(trial: optuna.Trial, path: str, domain: Domain) -> float:
    if isinstance(domain, Choice):
        return int(trial.suggest_categorical(path, range(len(domain.choice))))
    if not isinstance(domain, Interval):
        raise TypeError(f"{path}: a domain must be a choice or an interval (got {domain!r})")
    low, high, step = domain.low, domain.high, domain.step
    if domain.integer:
        return trial.suggest_int(path, int(low), int(high), log=domain.log, step=int(step or 1))
    return trial.suggest_float(path, low, high, log=domain.log, step=step)
