"""ASHA: asynchronous successive halving (Li et al., 2020), the variant that stops trials instead of pausing them.

Owns the spec and the rule. With `ties: continue` and no smoothing, the rule decides on finite values as Ray Tune's
`AsyncHyperBandScheduler` with one bracket does (a test compares them), and it also handles trials that diverge, which
Ray's class lets continue.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from search_spaces.domains import Integer, Number
from search_spaces.early_stopping.base import (
    CONTINUE,
    LOSS,
    Action,
    Comparison,
    Decision,
    EarlyStoppingSpec,
    StoppingRule,
)
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
    ties: Literal["loss", "continue"] = Field(
        "loss",
        description="What decides on a trial that equals the cutoff of a rung, as many do where few images are held "
        "out or accuracy is still that of guessing. loss: it continues unless its validation loss is above that of "
        "the trials at the cutoff. continue: it always continues; experiments of version 0.1 have this.",
    )
    smoothing: Annotated[Number, Field(ge=0, le=0.5)] = Field(
        0,
        description="Share of a trial's epochs, the newest ones and at least one, whose mean is compared at a rung, "
        "for curves that jump from epoch to epoch; 0 compares the newest epoch only.",
    )

    def problems(self, max_epochs: int) -> Iterator[Problem]:
        if self.grace_period > max_epochs:
            yield Problem("early_stopping.grace_period", f"must be at most max_epochs={max_epochs}", self.grace_period)

    def warnings(self, max_epochs: int) -> Iterator[Problem]:
        yield from super().warnings(max_epochs)
        if self.grace_period == max_epochs > 1:
            rule = f"should be less than max_epochs={max_epochs}, otherwise no trial is stopped early"
            yield Problem("early_stopping.grace_period", rule, self.grace_period)

    def rungs(self, max_epochs: int) -> tuple[int, ...]:
        return tuple(sorted({math.ceil(milestone) for milestone in self.milestones(max_epochs)}))

    @property
    def keeps(self) -> float:
        return 1 / self.reduction_factor

    def milestones(self, max_epochs: int) -> Iterator[float]:
        """The rungs before they are rounded up, in ascending order."""
        milestone, number = float(self.grace_period), 0
        while milestone < max_epochs:
            yield milestone
            number += 1
            milestone = self.grace_period * self.reduction_factor**number

    def rule(self, comparison: Comparison) -> StoppingRule:
        return AshaRule(self, comparison)


#: Signed value of the objective, and the validation loss times -1: the larger one is better. -inf: it has no loss.
Standing = tuple[float, float]


class AshaRule:
    """At each rung, stops the trials that are worse than the best 1/reduction_factor of the trials that came earlier.

    The first trial at a rung continues. Where one epoch reaches several rungs, the trial is compared at the highest,
    and at the others after its next epochs. A diverged trial counts at its rung as the worst of the trials there, so
    that the cutoff stays finite.
    """

    def __init__(self, spec: Asha, comparison: Comparison) -> None:
        self._spec = spec
        self._comparison = comparison
        # Highest first.
        self._rungs: list[tuple[float, dict[int, Standing]]] = [
            (milestone, {}) for milestone in reversed(list(spec.milestones(comparison.max_epochs)))
        ]
        self._epochs: dict[int, list[Standing]] = {}

    def decide(self, trial: int, epoch: int, value: float, loss: float | None = None) -> Decision:
        newest = self._comparison.sign * value, -math.inf if loss is None else -loss
        if self._spec.smoothing:
            self._epochs.setdefault(trial, []).append(newest)
        for milestone, reached in self._rungs:
            if epoch >= milestone and trial not in reached:
                return self._compare(trial, milestone, reached, self._smoothed(trial, newest))
        return CONTINUE

    def _smoothed(self, trial: int, newest: Standing) -> Standing:
        epochs = self._epochs.get(trial, [newest])
        count = max(1, round(self._spec.smoothing * len(epochs)))
        values, losses = zip(*epochs[-count:], strict=True)
        return math.fsum(values) / count, math.fsum(losses) / count

    def _compare(self, trial: int, milestone: float, reached: dict[int, Standing], standing: Standing) -> Decision:
        before = list(reached.values())
        signed, signed_loss = standing
        if math.isnan(signed):
            if before:
                reached[trial] = min(before)
            return CONTINUE
        reached[trial] = standing
        if not before:
            return CONTINUE
        by_loss = self._spec.ties == "loss"
        cutoff, cutoff_loss = _percentile(before, 1 - 1 / self._spec.reduction_factor, exact=by_loss)
        sign = self._comparison.sign
        value = f"{self._comparison.metric} {sign * signed:.4f}"
        others = (
            f"the best 1/{self._spec.reduction_factor:g} of {len(before)} earlier trials"
            if len(before) > 1
            else "1 earlier trial"
        )
        if signed < cutoff:
            side = "below" if sign > 0 else "above"
            why = f"{value} is {side} {sign * cutoff:.4f}, the cutoff for {others}"
        elif by_loss and signed == cutoff and -math.inf < signed_loss < cutoff_loss:
            why = f"{value} equals the cutoff for {others}, and {LOSS} {-signed_loss:.4f} is above {-cutoff_loss:.4f}"
        else:
            return CONTINUE
        return Decision(Action.STOP, f"rung at epoch {milestone:g}: {why}")


def _percentile(standings: list[Standing], share: float, *, exact: bool) -> Standing:
    """The standing below which `share` of `standings` lies, interpolated linearly.

    Its loss is -inf, which no loss is worse than, unless it is a standing or lies between two of equal value. Its
    value has the rounding of numpy.percentile, unless `exact`, which finds a standing also where that misses it.
    """
    ordered = sorted(standings)
    position = (len(ordered) - 1) * (share * 100 / 100)
    if exact:
        position = round(position, 9)
    low = math.floor(position)
    weight = position - low
    below, above = ordered[low], ordered[min(low + 1, len(ordered) - 1)]
    value = _between(below[0], above[0], weight)
    if below[0] != above[0] and weight:
        return value, -math.inf
    loss = _between(below[1], above[1], weight) if weight else below[1]
    return value, loss if math.isfinite(loss) else -math.inf


def _between(below: float, above: float, weight: float) -> float:
    step = above - below
    return above - step * (1 - weight) if weight >= 0.5 else below + step * weight
