"""Pausing: a stopping rule that pauses, which none of the registry does, so that tests can show what PAUSE means."""

from __future__ import annotations

from typing import ClassVar, Literal

from search_spaces.early_stopping.base import CONTINUE, Action, Comparison, Decision, EarlyStoppingSpec, StoppingRule


class Pausing(EarlyStoppingSpec):
    """Every trial pauses after its first epoch."""

    REASON: ClassVar[str] = "the others train their first epoch"
    kind: Literal["pausing"] = "pausing"

    def rule(self, comparison: Comparison) -> StoppingRule:
        return PausingRule()


class PausingRule:
    def decide(self, trial: int, epoch: int, value: float, loss: float | None = None) -> Decision:
        return Decision(Action.PAUSE, Pausing.REASON) if epoch == 1 else CONTINUE
