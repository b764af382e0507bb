"""The methods that are compared: Rung's searchers with its stopping rule, and Optuna's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from search_spaces.domains import Interval
from search_spaces.early_stopping.asha import Asha
from search_spaces.early_stopping.base import Action, Comparison
from search_spaces.early_stopping.none import NoEarlyStopping
from search_spaces.sampling import draw_from, resolve
from search_spaces.searchers.base import Finding, SearcherSpec, SearchProblem, TrialResult
from search_spaces.searchers.gp import GP
from search_spaces.searchers.random import Random
from search_spaces.searchers.tpe import TPE
from search_spaces.spec import Spec
from tests.benchmarks.search_quality.lcbench import EPOCHS
from tests.benchmarks.search_quality.simulation import Curves, Method


class RungMethod:
    """A searcher and a stopping rule of Rung, informed as a driver informs them."""

    def __init__(self, space: Spec, seed: int, searcher: SearcherSpec, early_stopping: Asha | NoEarlyStopping) -> None:
        self._space = space
        self._algorithm = searcher.algorithm(SearchProblem(space, 1, seed, early_stopping.rungs(EPOCHS)))
        self._rule = early_stopping.rule(Comparison("validation_accuracy", 1, EPOCHS))
        self._curves: dict[int, list[float]] = {}

    def suggest(self, number: int) -> Mapping[str, Any]:
        sample = self._algorithm.propose(number)
        assert sample is not None
        self._curves[number] = []
        bound: Mapping[str, Any] = resolve(self._space, draw_from(sample))
        return bound

    def report(self, number: int, epoch: int, value: float) -> bool:
        curve = self._curves[number]
        curve.append(value)
        self._algorithm.report(number, epoch, value)
        if epoch == EPOCHS:
            self._observe(number, Finding.COMPLETED)
        elif self._rule.decide(number, epoch, value).action is Action.STOP:
            self._observe(number, Finding.EARLY_STOPPED)
        else:
            return True
        return False

    def _observe(self, number: int, finding: Finding) -> None:
        curve = self._curves[number]
        self._algorithm.observe(TrialResult(number, finding, tuple(curve), max(curve)))


class OptunaMethod:
    """Optuna as its documentation shows it: a study with a sampler and a pruner. The space has no conditions."""

    def __init__(self, space: Spec, seed: int, pruner: str, sampler: str, **options: Any) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        sampler_class = getattr(optuna.samplers, sampler)
        self._study = optuna.create_study(
            direction="maximize", sampler=sampler_class(seed=seed), pruner=getattr(optuna.pruners, pruner)(**options)
        )
        self._trials: dict[int, optuna.Trial] = {}
        self._best: dict[int, float] = {}

    def suggest(self, number: int) -> Mapping[str, Any]:
        trial = self._trials[number] = self._study.ask()
        return {name: _suggest(trial, name, getattr(self._space, name)) for name in type(self._space).model_fields}

    def report(self, number: int, epoch: int, value: float) -> bool:
        from optuna.trial import TrialState

        trial = self._trials[number]
        self._best[number] = max(value, self._best.get(number, value))
        trial.report(value, epoch)
        if epoch == EPOCHS:
            self._study.tell(trial, self._best[number])
        elif trial.should_prune():
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            return True
        return False


def _suggest(trial: Any, name: str, domain: Interval) -> float:
    if domain.integer:
        whole: int = trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.log)
        return whole
    number: float = trial.suggest_float(name, domain.low, domain.high, log=domain.log)
    return number


def _rung(searcher: SearcherSpec, early_stopping: Asha | NoEarlyStopping) -> Callable[[Curves, int], Method]:
    return lambda task, seed: RungMethod(task.space, seed, searcher, early_stopping)


def _optuna(pruner: str, sampler: str = "TPESampler", **options: Any) -> Callable[[Curves, int], Method]:
    return lambda task, seed: OptunaMethod(task.space, seed, pruner, sampler, **options)


#: More trials than any budget can start.
MANY = 100_000
METHODS: dict[str, Callable[[Curves, int], Method]] = {
    "default": _rung(TPE(num_samples=MANY), Asha()),
    "gp": _rung(GP(num_samples=MANY), Asha()),
    "random": _rung(Random(num_samples=MANY), Asha()),
    "tpe-random-startup": _rung(TPE(num_samples=MANY, startup="random"), Asha()),
    "random-independent": _rung(Random(num_samples=MANY, startup="random"), Asha()),
    "tpe-0.1": _rung(TPE(num_samples=MANY, learn_from="ended_trials", startup="random"), Asha()),
    "random-full": _rung(Random(num_samples=MANY), NoEarlyStopping()),
    "optuna-tpe-hyperband": _optuna("HyperbandPruner", min_resource=1, max_resource=EPOCHS, reduction_factor=3),
    "optuna-tpe-sha": _optuna("SuccessiveHalvingPruner", min_resource=3, reduction_factor=3),
    "optuna-tpe-full": _optuna("NopPruner"),
}
