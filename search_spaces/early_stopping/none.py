"""No comparison of trials: each trains for `max_epochs` epochs unless it loses patience, diverges or fails."""

from __future__ import annotations

from typing import Literal

from search_spaces.early_stopping.base import CONTINUE, Comparison, Decision, EarlyStoppingSpec, StoppingRule


class NoEarlyStopping(EarlyStoppingSpec):
    """Trials are not compared: every trial trains for all of its epochs, unless `patience` stops it."""

    kind: Literal["none"] = "none"

    def rule(self, comparison: Comparison) -> StoppingRule:
        return AlwaysContinue()


class AlwaysContinue:
    """The rule that stops no trial."""

    def decide(self, trial: int, epoch: int, value: float, loss: float | None = None) -> Decision:
        return CONTINUE
