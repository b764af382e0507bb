"""The methods that are compared: Rung's searchers with its stopping rule, and those of others (`peers`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from search_spaces.early_stopping.asha import Asha
from search_spaces.early_stopping.base import Action, Comparison
from search_spaces.early_stopping.none import NoEarlyStopping
from search_spaces.experiment import ExperimentSpec
from search_spaces.sampling import draw_from, resolve
from search_spaces.searchers.base import Finding, SearcherSpec, SearchProblem, TrialResult
from search_spaces.searchers.gp import GP
from search_spaces.searchers.random import Random
from search_spaces.searchers.tpe import TPE
from tests.benchmarks.search_quality import earlier, peers
from tests.benchmarks.search_quality.simulation import Curves, Method

Make = Callable[[Curves, int], Method]
#: More trials than any budget can start.
MANY = 100_000


class RungMethod:
    """A searcher and a stopping rule of Rung, informed as a driver informs them. `known`: see `SearchProblem`."""

    def __init__(
        self,
        task: Curves,
        seed: int,
        searcher: SearcherSpec,
        early_stopping: Asha | NoEarlyStopping,
        known: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._space, self._epochs = task.space, task.epochs
        rungs = early_stopping.rungs(task.epochs)
        self._algorithm = searcher.algorithm(SearchProblem(task.space, 1, seed, rungs, tuple(known)))
        self._rule = early_stopping.rule(Comparison("validation_accuracy", 1, task.epochs))
        self._curves: dict[int, list[float]] = {}

    def suggest(self, number: int) -> Mapping[str, Any]:
        sample = self._algorithm.propose(number)
        assert sample is not None
        self._curves[number] = []
        bound: Mapping[str, Any] = resolve(self._space, draw_from(sample))
        return bound

    def report(self, number: int, epoch: int, value: float, loss: float | None) -> bool:
        self._curves[number].append(value)
        self._algorithm.report(number, epoch, value)
        if not math.isfinite(value):
            self._rule.decide(number, epoch, value)
            self._observe(number, Finding.DIVERGED)
        elif epoch == self._epochs:
            self._observe(number, Finding.COMPLETED)
        elif self._rule.decide(number, epoch, value, loss).action is Action.STOP:
            self._observe(number, Finding.EARLY_STOPPED)
        else:
            return True
        return False

    def _observe(self, number: int, finding: Finding) -> None:
        curve = self._curves[number]
        best = max(filter(math.isfinite, curve), default=None)
        self._algorithm.observe(TrialResult(number, finding, tuple(curve), best))


def _rung(searcher: SearcherSpec, early_stopping: Asha | NoEarlyStopping) -> Make:
    return lambda task, seed: RungMethod(task, seed, searcher, early_stopping)


def _warm(searcher: SearcherSpec, choose: earlier.Choose) -> Make:
    return lambda task, seed: RungMethod(task, seed, searcher, Asha(), earlier.configurations(task, seed, choose))


#: The searcher of a spec that names none.
DEFAULT = ExperimentSpec.model_fields["searcher"].default.model_copy(update={"num_samples": MANY})
METHODS: dict[str, Make] = {
    "default": _rung(DEFAULT, Asha()),
    "tpe": _rung(TPE(num_samples=MANY), Asha()),
    "gp": _rung(GP(num_samples=MANY), Asha()),
    "random": _rung(Random(num_samples=MANY), Asha()),
    "tpe-diverging": _rung(TPE(num_samples=MANY, avoid_divergence=False), Asha()),
    "gp-diverging": _rung(GP(num_samples=MANY, avoid_divergence=False), Asha()),
    "tpe-all-trials": _rung(TPE(num_samples=MANY, learn_from="all_trials"), Asha()),
    "tpe-random-startup": _rung(TPE(num_samples=MANY, startup="random"), Asha()),
    "random-independent": _rung(Random(num_samples=MANY, startup="random"), Asha()),
    "tpe-0.1": _rung(TPE(num_samples=MANY, learn_from="ended_trials", startup="random"), Asha()),
    "random-full": _rung(Random(num_samples=MANY), NoEarlyStopping()),
    "warm-same": _warm(DEFAULT, earlier.best),
    "warm-permuted": _warm(DEFAULT, earlier.permuted),
    "warm-inverted": _warm(DEFAULT, earlier.worst),
    "warm-other": _warm(DEFAULT, earlier.of_another_task),
    **peers.METHODS,
}
#: Those of a run that names none: the fast ones that need no further package.
USUAL = ["default", "tpe", "gp", "random", "optuna-tpe-hyperband", "optuna-tpe-sha", "optuna-tpe-full", "random-full"]
