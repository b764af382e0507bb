"""Searchers that draw with one of Optuna's samplers.

Owns the only use of Optuna, which is imported when a search begins. A searcher names its sampler as data; a new one is
a subclass of `OptunaSearcherSpec` in a module of its own.
"""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
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


class OptunaSearch:
    """A study in memory. A trial that was stopped early is pruned in it, and a trial without a result failed."""

    def __init__(self, problem: SearchProblem, sampler: str, options: dict[str, Any]) -> None:
        import optuna

        optuna.logging.set_verbosity(logging.WARNING)
        self._problem = problem
        self._sampler = getattr(optuna.samplers, sampler)
        self._options = options
        self._study = optuna.create_study(direction="maximize" if problem.sign > 0 else "minimize")
        self._open: dict[int, optuna.Trial] = {}

    def propose(self, number: int) -> dict[str, float] | None:
        self._study.sampler = self._seeded(number)
        sample: dict[str, float] = {}
        trial = self._open[number] = self._study.ask()

        def draw(path: str, domain: Domain) -> float:
            sample[path] = _suggest(trial, path, domain)
            return sample[path]

        resolve(self._problem.search_space, draw)
        return sample

    def replay(self, number: int, sample: Sample) -> None:
        self._study.enqueue_trial(dict(sample))
        self.propose(number)

    def observe(self, result: TrialResult) -> None:
        from optuna.trial import TrialState

        asked = self._open.pop(result.number, None)
        if asked is None:
            return
        for epoch, value in enumerate(result.curve, start=1):
            if math.isfinite(value):
                asked.report(value, epoch)
        if result.finding is Finding.COMPLETED and result.best_value is not None:
            self._study.tell(asked, result.best_value)
        elif result.finding is Finding.EARLY_STOPPED:
            self._study.tell(asked, state=TrialState.PRUNED)
        else:
            self._study.tell(asked, state=TrialState.FAIL)

    def _seeded(self, number: int) -> optuna.samplers.BaseSampler:
        """A sampler for one proposal: a seed of its own makes the proposal independent of how often it was drawn."""
        from optuna.exceptions import ExperimentalWarning

        seed = int.from_bytes(hashlib.sha256(f"{self._problem.seed}/proposal/{number}".encode()).digest()[:4], "big")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler: optuna.samplers.BaseSampler = self._sampler(seed=seed, **self._options)
            return sampler


def _suggest(trial: optuna.Trial, path: str, domain: Domain) -> float:
    if isinstance(domain, Choice):
        return int(trial.suggest_categorical(path, range(len(domain.choice))))
    if not isinstance(domain, Interval):
        raise TypeError(f"{path}: a domain must be a choice or an interval (got {domain!r})")
    low, high, step = domain.low, domain.high, domain.step
    if domain.integer:
        return trial.suggest_int(path, int(low), int(high), log=domain.log, step=int(step or 1))
    return trial.suggest_float(path, low, high, log=domain.log, step=step)
