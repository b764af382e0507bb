"""Verdicts: what happens to a trial after each epoch.

Owns the order of the checks: a trial that diverged ends, one that has trained all of its epochs ends, and only
otherwise the experiment's stopping rule and its patience decide. Owns their replay after a crash. It must not know
Ray, the journal, MLflow or the service.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from search_spaces.early_stopping.base import LOSS, Action, Comparison, Decision, EarlyStoppingSpec, StoppingRule
from search_spaces.early_stopping.patience import PatienceRule
from search_spaces.objective import Objective
from search_spaces.protocol import TrialState
from search_spaces.replicates import is_replicate


@dataclass(frozen=True)
class Verdict:
    """`state` is the one in which the trial ends; None for a trial that has not ended."""

    action: Action
    state: TrialState | None = None
    reason: str = ""


CONTINUE = Verdict(Action.CONTINUE)


class Verdicts:
    """The verdicts on all trials of one experiment.

    `history` has trial, epoch, objective and validation loss of the epochs that the journal has, in its order.
    """

    def __init__(
        self,
        early_stopping: EarlyStoppingSpec,
        objective: Objective,
        max_epochs: int,
        history: Iterable[tuple[int, int, float, float | None]] = (),
    ) -> None:
        self._metric = objective.metric
        self._max_epochs = max_epochs
        comparison = Comparison(objective.metric, objective.sign, max_epochs)
        self._rules: list[StoppingRule] = [early_stopping.rule(comparison)]
        if early_stopping.patience is not None:
            self._rules.append(PatienceRule(early_stopping.patience, early_stopping.min_delta, comparison))
        self._decided: dict[int, int] = {}  # trial -> its newest epoch with a verdict
        for trial, epoch, value, loss in history:
            self.after_epoch(trial, epoch, {LOSS: loss, self._metric: value})

    def after_epoch(self, trial: int, epoch: int, metrics: Mapping[str, float | None]) -> Verdict:
        """The verdict on `trial` after `epoch` (from 1).

        A trial that resumes reports its newest epoch a second time: it continues, whatever the verdict was then.
        """
        if epoch <= self._decided.get(trial, 0):
            return CONTINUE
        self._decided[trial] = epoch
        value = metrics.get(self._metric)
        if value is None or not math.isfinite(value):
            self._decide(trial, epoch, math.nan)
            problem = "was not reported" if value is None else f"is not finite ({value})"
            return Verdict(Action.STOP, TrialState.DIVERGED, f"{self._metric} {problem} after epoch {epoch}")
        if metrics.get("diverged"):
            self._decide(trial, epoch, math.nan)
            return Verdict(Action.STOP, TrialState.DIVERGED, f"the loss is not finite in epoch {epoch}")
        if epoch >= self._max_epochs:
            done = "the only epoch is done" if self._max_epochs == 1 else f"all {self._max_epochs} epochs done"
            return Verdict(Action.STOP, TrialState.COMPLETED, done)
        loss = metrics.get(LOSS)
        decision = self._decide(trial, epoch, value, loss if loss is not None and math.isfinite(loss) else None)
        if decision.action is Action.STOP:
            return Verdict(Action.STOP, TrialState.EARLY_STOPPED, decision.reason)
        return Verdict(decision.action, reason=decision.reason)

    def _decide(self, trial: int, epoch: int, value: float, loss: float | None = None) -> Decision:
        """Each rule sees every epoch of the search. The first that stops the trial gives the reason."""
        if is_replicate(trial):
            return Decision(Action.CONTINUE)
        decisions = [rule.decide(trial, epoch, value, loss) for rule in self._rules]
        return next((decision for decision in decisions if decision.action is Action.STOP), decisions[0])
