"""Searchers that draw with one of Optuna's samplers.

Owns the only use of Optuna, which is imported when a search begins. A searcher names its sampler as data; a new one is
a subclass of `OptunaSearcherSpec` in a module of its own.
"""

from __future__ import annotations

import logging
import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from search_spaces.domains import Choice, Domain, Interval
from search_spaces.positions import has_no_width, orders
from search_spaces.sampling import Sample, resolve
from search_spaces.searchers.base import Finding, SearchProblem, TrialResult, proposal_seed
from search_spaces.searchers.drawn import DrawnSearcherSpec, Model

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Sampler:
    """`name` is that of a class in `optuna.samplers`, `options` its arguments besides the seed.

    `ordered`: whether it draws the numbers of a choice by their order. `startup_trials`: trials that it must know of
    before it draws by what it knows.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    ordered: bool = False
    startup_trials: float = math.inf


class OptunaSearcherSpec(DrawnSearcherSpec):
    @abstractmethod
    def sampler(self) -> Sampler:
        """What draws the samples."""

    def model(self, problem: SearchProblem) -> Model:
        return OptunaSearch(problem, self.sampler())


class OptunaStudy:
    """A study in memory, whose trials have our numbers. Results of a trial that it does not have are ignored."""

    def __init__(self, problem: SearchProblem, sampler: Sampler) -> None:
        import optuna

        optuna.logging.set_verbosity(logging.WARNING)
        self._problem = problem
        self._samplers = optuna.samplers
        self._sampler = sampler
        self._orders = orders(problem.search_space) if sampler.ordered else {}
        self._study = optuna.create_study(direction="maximize" if problem.sign > 0 else "minimize")
        self._open: dict[int, optuna.Trial] = {}
        self._drawn: tuple[int, dict[str, float], optuna.Trial] | None = None
        self.told = 0  # trials that the sampler learns from

    def draw(self, number: int, attempt: int) -> dict[str, float]:
        """A sample of the sampler. The study has it once it is added."""
        self._drop_drawn()
        self._study.sampler = self._seeded(number, attempt)
        sample, trial = self._ask()
        self._drawn = number, sample, trial
        return sample

    def add(self, number: int, sample: Sample) -> None:
        """A trial that was drawn now, or elsewhere."""
        if self._drawn is not None and self._drawn[:2] == (number, sample):
            self._open[number], self._drawn = self._drawn[2], None
            return
        self._drop_drawn()
        self._study.sampler = self._samplers.RandomSampler(seed=0)  # it draws nothing: all values are given
        self._study.enqueue_trial({path: self._to_optuna(path, value) for path, value in sample.items()})
        _, self._open[number] = self._ask()

    def complete(self, number: int, value: float) -> None:
        """The trial is as good as `value`."""
        if (asked := self._open.pop(number, None)) is not None:
            self._study.tell(asked, value)
            self.told += 1

    def prune(self, number: int, curve: Sequence[float] = ()) -> None:
        """The trial is worse than all complete ones: the worse, the fewer epochs its curve has, then by its last value.

        Without a finite value it is worse than all trials.
        """
        from optuna.trial import TrialState

        if (asked := self._open.pop(number, None)) is not None:
            finite = ((epoch, value) for epoch, value in enumerate(curve, start=1) if math.isfinite(value))
            for epoch, value in list(finite)[-1:]:  # samplers look at the last one
                asked.report(value, epoch)
            self._study.tell(asked, state=TrialState.PRUNED)
            self.told += 1

    def forget(self, number: int) -> None:
        """Nothing is known of the trial."""
        from optuna.trial import TrialState

        if (asked := self._open.pop(number, None)) is not None:
            self._study.tell(asked, state=TrialState.FAIL)

    def _drop_drawn(self) -> None:
        """Samplers ignore trials that failed."""
        from optuna.trial import TrialState

        if self._drawn is not None:
            self._study.tell(self._drawn[2], state=TrialState.FAIL)
            self._drawn = None

    def _ask(self) -> tuple[dict[str, float], optuna.Trial]:
        sample: dict[str, float] = {}
        trial = self._study.ask()

        def draw(path: str, domain: Domain) -> float:
            if (order := self._orders.get(path)) is None:
                sample[path] = _suggest(trial, path, domain)
            else:
                sample[path] = order[trial.suggest_int(path, 0, len(order) - 1)]
            return sample[path]

        resolve(self._problem.search_space, draw)
        return sample, trial

    def _to_optuna(self, path: str, value: float) -> float:
        return self._orders[path].index(int(value)) if path in self._orders else value

    def _seeded(self, number: int, attempt: int) -> optuna.samplers.BaseSampler:
        """A sampler for one proposal: a seed of its own makes the proposal independent of how often it was drawn."""
        from optuna.exceptions import ExperimentalWarning

        seed = proposal_seed(self._problem.seed, number, attempt, size=4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler_class = getattr(self._samplers, self._sampler.name)
            sampler: optuna.samplers.BaseSampler = sampler_class(seed=seed, **self._sampler.options)
            return sampler


class OptunaSearch:
    """One study of whole trials: one that was stopped early is pruned in it, and one without a result is forgotten."""

    def __init__(self, problem: SearchProblem, sampler: Sampler) -> None:
        self._study = OptunaStudy(problem, sampler)
        self._enough = sampler.startup_trials

    def learned(self) -> bool:
        return self._study.told >= self._enough

    def draw(self, number: int, attempt: int) -> dict[str, float]:
        return self._study.draw(number, attempt)

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
    if has_no_width(domain):
        return low
    value = trial.suggest_float(path, low, high, log=domain.log, step=step)
    return min(max(value, low), high)  # Optuna rounds the logarithms of narrow domains
