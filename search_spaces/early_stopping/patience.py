"""Patience: the rule that stops a trial which no longer improves on itself. It goes with every other rule.

Owns what counts as an improvement. It must not know other trials.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from search_spaces.early_stopping.base import CONTINUE, Action, Comparison, Decision
from search_spaces.phrases import counted

#: Relative error of a difference of two accuracies: 0.3 - 0.2 is less than 0.1.
ROUNDING = 1e-9


@dataclass
class _Best:
    """What a trial has to improve on: a signed value, and the epoch (from 1) that had it."""

    signed: float
    epoch: int


class PatienceRule:
    """Stops a trial `patience` epochs after its newest improvement, which is one of at least `min_delta`."""

    def __init__(self, patience: int, min_delta: float, comparison: Comparison) -> None:
        self._patience = patience
        self._min_delta = min_delta
        self._comparison = comparison
        self._best: dict[int, _Best] = {}

    def decide(self, trial: int, epoch: int, value: float, loss: float | None = None) -> Decision:
        if math.isnan(value):
            return CONTINUE
        signed = self._comparison.sign * value
        best = self._best.setdefault(trial, _Best(signed, epoch))
        if self._improves(signed - best.signed):
            best.signed, best.epoch = signed, epoch
        if epoch - best.epoch < self._patience:
            return CONTINUE
        least = f" of at least {self._min_delta:g}" if self._min_delta else ""
        value = self._comparison.sign * best.signed
        return Decision(
            Action.STOP,
            f"no improvement{least} for {counted(epoch - best.epoch, 'epoch')}: {self._comparison.metric} was "
            f"{value:.4f} at epoch {best.epoch}",
        )

    def _improves(self, gain: float) -> bool:
        return gain > 0 and (gain >= self._min_delta or math.isclose(gain, self._min_delta, rel_tol=ROUNDING))
