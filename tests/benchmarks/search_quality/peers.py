"""Searches of others: Optuna as its documentation shows it, and Syne Tune, which `make bench-search-peers` installs.

They see what a loop reports that knows nothing of Rung: where a network diverges, an accuracy of 0 as its last value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from search_spaces.domains import Choice, Domain, Interval
from search_spaces.positions import orders
from search_spaces.sampling import domains, resolve
from tests.benchmarks.search_quality.simulation import Curves, Method

METRIC, EPOCH = "accuracy", "epoch"


class OptunaMethod:
    """A study with a sampler and a pruner. Conditions are those of a function that asks for what it needs."""

    def __init__(self, task: Curves, seed: int, pruner: str, sampler: str, options: dict[str, Any]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._epochs = task.space, task.epochs
        self._study = optuna.create_study(
            direction="maximize",
            sampler=getattr(optuna.samplers, sampler)(seed=seed),
            pruner=getattr(optuna.pruners, pruner)(**options),
        )
        self._trials: dict[int, optuna.Trial] = {}
        self._best: dict[int, float] = {}

    def suggest(self, number: int) -> Mapping[str, Any]:
        trial = self._trials[number] = self._study.ask()
        bound: Mapping[str, Any] = resolve(self._space, lambda path, domain: _suggest(trial, path, domain))
        return bound

    def report(self, number: int, epoch: int, value: float, loss: float | None) -> bool:
        from optuna.trial import TrialState

        trial, diverged = self._trials[number], not math.isfinite(value)
        value = 0.0 if diverged else value
        self._best[number] = max(value, self._best.get(number, value))
        trial.report(value, epoch)
        if diverged or (epoch < self._epochs and trial.should_prune()):
            self._study.tell(trial, state=TrialState.PRUNED)
            return False
        if epoch == self._epochs:
            self._study.tell(trial, self._best[number])
        return epoch < self._epochs


def _suggest(trial: Any, path: str, domain: Domain) -> float:
    if isinstance(domain, Choice):
        index: int = trial.suggest_categorical(path, list(range(len(domain.choice))))
        return index
    if not isinstance(domain, Interval):
        raise TypeError(f"{path}: must be a choice or an interval (got {domain!r})")
    if domain.integer:
        whole: int = trial.suggest_int(path, int(domain.low), int(domain.high), log=domain.log)
        return whole
    number: float = trial.suggest_float(path, domain.low, domain.high, log=domain.log)
    return number


class SyneTuneMethod:
    """A scheduler of Syne Tune that stops trials. Its spaces are flat: what does not apply to a trial has no effect."""

    def __init__(self, task: Curves, seed: int, name: str, options: dict[str, Any]) -> None:
        import numpy as np
        from syne_tune.optimizer import baselines

        np.random.seed(seed)
        self._space, self._epochs = task.space, task.epochs
        self._orders = orders(task.space)
        self._scheduler = getattr(baselines, name)(
            {path: self._domain(path, domain) for path, domain in domains(task.space)},
            metric=METRIC,
            resource_attr=EPOCH,
            mode="max",
            max_t=task.epochs,
            random_seed=seed,
            **options,
        )
        self._trials: dict[int, Any] = {}

    def suggest(self, number: int) -> Mapping[str, Any]:
        from datetime import UTC, datetime

        from syne_tune.backend.trial_status import Trial

        config = self._scheduler.suggest(trial_id=number).config
        self._trials[number] = Trial(number, config, datetime.now(UTC))
        self._scheduler.on_trial_add(self._trials[number])
        bound: Mapping[str, Any] = resolve(self._space, lambda path, domain: _inside(domain, config[path]))
        return bound

    def report(self, number: int, epoch: int, value: float, loss: float | None) -> bool:
        diverged = not math.isfinite(value)
        result = {METRIC: 0.0 if diverged else value, EPOCH: epoch}
        decision = self._scheduler.on_trial_result(self._trials[number], result)
        if diverged or epoch == self._epochs:
            self._scheduler.on_trial_complete(self._trials[number], result)
        elif decision == "STOP":
            self._scheduler.on_trial_remove(self._trials[number])
        else:
            return True
        return False

    def _domain(self, path: str, domain: Domain) -> Any:
        from syne_tune import config_space

        if path in self._orders:
            return config_space.ordinal(list(self._orders[path]), kind="equal")
        if isinstance(domain, Choice):
            return config_space.choice(list(range(len(domain.choice))))
        if not isinstance(domain, Interval):
            raise TypeError(f"{path}: must be a choice or an interval (got {domain!r})")
        if domain.integer:
            whole = config_space.lograndint if domain.log else config_space.randint
            return whole(int(domain.low), int(domain.high))
        return (config_space.loguniform if domain.log else config_space.uniform)(domain.low, domain.high)


def _inside(domain: Domain, value: float) -> float:
    """BOHB proposes whole numbers beyond the ends of a logarithmic domain."""
    return min(max(value, domain.low), domain.high) if isinstance(domain, Interval) else value


def _optuna(pruner: str, sampler: str = "TPESampler", **options: Any) -> Callable[[Curves, int], Method]:
    def make(task: Curves, seed: int) -> Method:
        most = {"max_resource": task.epochs} if pruner == "HyperbandPruner" else {}
        return OptunaMethod(task, seed, pruner, sampler, {**options, **most})

    return make


def _syne_tune(name: str, **search_options: Any) -> Callable[[Curves, int], Method]:
    options = {"grace_period": 1, "reduction_factor": 3, "search_options": {"debug_log": False, **search_options}}
    return lambda task, seed: SyneTuneMethod(task, seed, name, options)


METHODS: dict[str, Callable[[Curves, int], Method]] = {
    "optuna-tpe-hyperband": _optuna("HyperbandPruner", min_resource=1, reduction_factor=3),
    "optuna-tpe-sha": _optuna("SuccessiveHalvingPruner", min_resource=3, reduction_factor=3),
    "optuna-tpe-full": _optuna("NopPruner"),
    "optuna-gp": _optuna("HyperbandPruner", "GPSampler", min_resource=1, reduction_factor=3),
    "syne-asha": _syne_tune("ASHA"),
    "syne-bohb": _syne_tune("BOHB"),
    "syne-mobster": _syne_tune("MOBSTER"),
    "syne-hypertune": _syne_tune("HyperTune"),
}
