"""ASHA: asynchronous successive halving (Li et al., 2020), the variant that stops trials instead of pausing them.

Owns the spec and the rule. For finite values the rule decides as Ray Tune's `AsyncHyperBandScheduler` with one bracket
does (a test compares them), and it also handles trials that diverge, which Ray's class lets continue.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from search_spaces.domains import Integer, Number
from search_spaces.early_stopping.base import CONTINUE, Action, Comparison, Decision, EarlyStoppingSpec, StoppingRule
from search_spaces.problems import Problem


class Asha(EarlyStoppingSpec):
    """Trials are compared at rungs: after grace_period x reduction_factor^k epochs, rounded up.

    A trial continues if it is among the best 1/reduction_factor of the trials that reached this rung earlier.
    """

    kind: Literal["asha"] = "asha"
    grace_period: Annotated[Integer, Field(ge=1)] = Field(
        1, description="Number of epochs before the first rung; at most `max_epochs`."
    )
    reduction_factor: Annotated[Number, Field(ge=1.25, le=100)] = Field(
        3,
        description="Strictness at a rung: a trial continues if it is among the best 1/reduction_factor of the "
        "trials that reached this rung earlier (Li et al., 2020).",
    )

    def problems(self, max_epochs: int) -> Iterator[Problem]:
        if self.grace_period > max_epochs:
            yield Problem("early_stopping.grace_period", f"must be at most max_epochs={max_epochs}", self.grace_period)

    def warnings(self, max_epochs: int) -> Iterator[Problem]:
        if self.grace_period == max_epochs > 1:
            rule = f"should be less than max_epochs={max_epochs}, otherwise no trial is stopped early"
            yield Problem("early_stopping.grace_period", rule, self.grace_period)

    def rungs(self, max_epochs: int) -> tuple[int, ...]:
        return tuple(sorted({math.ceil(milestone) for milestone in self.milestones(max_epochs)}))

    def milestones(self, max_epochs: int) -> Iterator[float]:
        """The rungs before they are rounded up, in ascending order."""
        milestone, number = float(self.grace_period), 0
        while milestone < max_epochs:
            yield milestone
            number += 1
            milestone = self.grace_period * self.reduction_factor**number

    def rule(self, comparison: Comparison) -> StoppingRule:
        return AshaRule(self, comparison)


class AshaRule:
    """At each rung, stops the trials that are worse than the best 1/reduction_factor of the trials that came earlier.

    The first trial at a rung continues, and so does one that equals the cutoff. Where one epoch reaches several rungs,
    the trial is compared at the highest, and at the others after its next epochs. A diverged trial counts at its rung
    as the worst of the trials there, so that the cutoff stays finite.
    """

    def __init__(self, spec: Asha, comparison: Comparison) -> None:
        self._comparison = comparison
        self._factor = spec.reduction_factor
        # Highest first: epoch, trial -> signed value.
        self._rungs: list[tuple[float, dict[int, float]]] = [
            (milestone, {}) for milestone in reversed(list(spec.milestones(comparison.max_epochs)))
        ]

    def decide(self, trial: int, epoch: int, value: float) -> Decision:
        for milestone, reached in self._rungs:
            if epoch >= milestone and trial not in reached:
                return self._compare(trial, milestone, reached, value)
        return CONTINUE

    def _compare(self, trial: int, milestone: float, reached: dict[int, float], value: float) -> Decision:
        before = list(reached.values())
        if math.isnan(value):
            if before:
                reached[trial] = min(before)
            return CONTINUE
        signed = self._comparison.sign * value
        reached[trial] = signed
        if not before or signed >= (cutoff := _percentile(before, 1 - 1 / self._factor)):
            return CONTINUE
        side = "below" if self._comparison.sign > 0 else "above"
        others = (
            f"the best 1/{self._factor:g} of {len(before)} earlier trials" if len(before) > 1 else "1 earlier trial"
        )
        return Decision(
            Action.STOP,
            f"rung at epoch {milestone:g}: {self._comparison.metric} {value:.4f} is {side} "
            f"{self._comparison.sign * cutoff:.4f}, the cutoff for {others}",
        )


def _percentile(values: list[float], share: float) -> float:
    """The value below which `share` of `values` lies, interpolated linearly, with the rounding of numpy.percentile."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * (share * 100 / 100)
    low = math.floor(position)
    weight = position - low
    below, above = ordered[low], ordered[min(low + 1, len(ordered) - 1)]
    step = above - below
    return above - step * (1 - weight) if weight >= 0.5 else below + step * weight
