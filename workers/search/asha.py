"""ASHA: Ray Tune's asynchronous successive halving, made safe.

Owns the decision after each epoch and the sentence that explains it. What Ray's class lacks and this one
has: a non-finite or missing objective ends the trial as DIVERGED instead of letting it run on or killing
the experiment; rungs are keyed by Rung's trial numbers, so that they can be filled again from the journal
after a crash; orders to stop are obeyed at every step of Tune's loop, and a trial may have to give its slot
back after any epoch. It must not know the journal, MLflow or the service.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from search_spaces.asha import AshaSpec
from search_spaces.experiment import Objective
from search_spaces.protocol import TrialState

TrialOutcome = tuple[TrialState, str]


class Asha(AsyncHyperBandScheduler):
    """`decide` is the whole decision, without Ray; the other methods are Ray's hooks around it.

    `orders` is called at each step of Tune's loop with the controller and may stop trials there. `gives_way` is
    asked of a trial that would go on: whether it leaves its slot to others first.
    """

    def __init__(
        self,
        spec: AshaSpec,
        objective: Objective,
        orders: Callable[[Any], None] = lambda _: None,
        gives_way: Callable[[int], bool] = lambda _: False,
    ) -> None:
        super().__init__(
            time_attr="epoch",
            metric=objective.metric,
            mode=objective.mode,
            max_t=spec.max_t,
            grace_period=spec.grace_period,
            reduction_factor=spec.reduction_factor,
        )
        self._objective = objective
        self._sign = float(objective.sign)
        self._orders = orders
        self._gives_way = gives_way
        self._judged: dict[int, int] = {}
        self.outcomes: dict[int, TrialOutcome] = {}

    def decide(self, trial: int, epoch: int, metrics: Mapping[str, float | None]) -> TrialOutcome | None:
        """The outcome of a trial that ends with this epoch (from 1), or None for one that goes on.

        An epoch that is told again was judged the first time.
        """
        if epoch <= self._judged.get(trial, 0):
            return None
        self._judged[trial] = epoch
        value = metrics.get(self._objective.metric)
        if value is None or not math.isfinite(value):
            self._record_worst(trial, epoch)
            was = "not reported" if value is None else f"{value}, which is not finite"
            return TrialState.DIVERGED, f"{self._objective.metric} was {was}, after epoch {epoch}"
        if metrics.get("diverged"):
            self._record_worst(trial, epoch)
            return TrialState.DIVERGED, f"the loss was not finite in epoch {epoch}"
        if epoch >= self._max_t:
            return TrialState.COMPLETED, f"all {self._max_t} epochs done"
        rung = self._rung(trial, epoch)
        cut: Any = self._brackets[0].cutoff(rung[1]) if rung else None
        before = len(rung[1]) if rung else 0
        keyed: Any = SimpleNamespace(trial_id=trial)  # the bracket looks at nothing else
        decision = self._brackets[0].on_result(keyed, epoch, self._sign * value)
        if decision != TrialScheduler.STOP or rung is None or cut is None:
            return None
        side = "below" if self._objective.sign > 0 else "above"
        others = f"the best 1/{self._reduction_factor:g} of the {before}" if before > 1 else "the one"
        return TrialState.EARLY_STOPPED, (
            f"rung at epoch {rung[0]:g}: {self._objective.metric} {value:.4f} is {side} the cut "
            f"{self._sign * float(cut):.4f}, set by {others} before it"
        )

    def rungs(self) -> dict[float, dict[int, float]]:
        """Rung's epoch (a fraction where the factor is one) -> trial -> value of the objective, for inspection."""
        return {
            milestone: {trial: self._sign * value for trial, value in recorded.items()}
            for milestone, recorded in self._brackets[0]._rungs
        }

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = trial.config["trial"]
        outcome = self.decide(number, int(result["epoch"]), result)
        if outcome is None:
            return str(TrialScheduler.STOP if self._gives_way(number) else TrialScheduler.CONTINUE)
        self.outcomes[number] = outcome
        return str(TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Ray would judge the last result a second time here; it has been judged."""
        self._trial_info.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._trial_info.pop(trial.trial_id, None)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        self._orders(tune_controller)
        return super().choose_trial_to_run(tune_controller)

    def _rung(self, trial: int, epoch: int) -> tuple[float, dict[int, float]] | None:
        """The highest rung reached at which this trial was not yet compared: the one Ray compares it at."""
        for milestone, recorded in self._brackets[0]._rungs:
            if epoch >= milestone and trial not in recorded:
                return milestone, recorded
        return None

    def _record_worst(self, trial: int, epoch: int) -> None:
        """A diverged trial counts at its rung as the worst of those there, so that the cut stays finite."""
        rung = self._rung(trial, epoch)
        if rung and rung[1]:
            rung[1][trial] = min(rung[1].values())
