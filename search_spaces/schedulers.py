"""Schedulers: how the learning rate changes during a trial.

A member either names a stock torch scheduler in `target` and gives its keyword arguments, or computes
its own multiplier of the base rate in `multiplier`. Both get the trial's `Horizon`. The workers apply warmup
before the schedule begins. It must not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from search_spaces.domains import Domain, Integer, Number, Searchable, bounds_of
from search_spaces.phrases import counted
from search_spaces.problems import Problem
from search_spaces.spec import Discriminated, KindShorthand, Spec, field_error

SHORTEST_PHASE = 1e-6  # length in steps of a one_cycle's rise, which must not be 0
LONGEST_HALF_CYCLE = 2**53  # in steps: no trial comes near its end, and a longer one is no whole number
MAX_WARMUP_SHARE = 0.5  # of a trial; with more, most epochs train below the base rate
FAINT = 1e-3  # of the base rate: below it, an epoch hardly changes the network
MAX_FAINT_SHARE = 0.5  # of a trial, in which the rate may be fainter
LARGER = "should be larger"
LARGEST_EXPONENT = 700.0  # of e, as a float
ALTERNATIVE = "use a smaller value, or a schedule that follows max_epochs, such as cosine"

Ratio = Searchable[Annotated[Number, Field(gt=0, lt=1)]]
Share = Searchable[Annotated[Number, Field(ge=0, le=1)]]
Epochs = Searchable[Annotated[Number, Field(gt=0)]]
Count = Searchable[Annotated[Integer, Field(ge=1)]]


@dataclass(frozen=True)
class Horizon:
    """The facts of a trial that a scheduler may use, without the warmup.

    `epochs` left after warmup, `batches` per epoch, base `lr`, and `mode` ("min" or "max") of the
    monitored validation value.
    """

    epochs: float
    batches: int
    lr: float
    mode: Literal["min", "max"]

    @property
    def steps(self) -> int:
        return max(1, round(self.epochs * self.batches))


@dataclass(frozen=True)
class Fade:
    """From `begins` on, in epochs after warmup, the learning rate stays below FAINT of the base rate.

    Of a domain, that is so for the value that ends earliest. `remedy` says what `field`, now `value`, should be.
    """

    begins: float
    field: str
    remedy: str
    value: Any


class SchedulerSpec(Spec):
    """What all schedulers share.

    `interval` says what a stock scheduler counts its steps in: epochs or batches after warmup.
    `target` is None for members that override `multiplier`.
    """

    target: ClassVar[str | None] = None
    interval: ClassVar[Literal["epoch", "batch"]] = "batch"
    monitors: ClassVar[bool] = False

    kind: str
    warmup_epochs: Searchable[Annotated[Number, Field(ge=0)]] = Field(
        0.0,
        description="Number of epochs, which may be a fraction, in which the learning rate rises linearly from 0 to "
        "its base before the schedule begins.",
    )

    def arguments(self, horizon: Horizon) -> dict[str, Any]:
        """Keyword arguments of the stock scheduler named by `target`."""
        raise TypeError(f"{type(self).__name__} names no stock scheduler")

    def multiplier(self, epoch: float, horizon: Horizon) -> float:
        """Multiplier of the base rate at a fractional epoch counted from the end of warmup."""
        raise TypeError(f"{type(self).__name__} is a stock scheduler")

    def rise_end(self, max_epochs: int) -> float:
        """When the learning rate has risen to its first peak, at the latest: epochs from the start of the trial."""
        return bounds_of(self.warmup_epochs)[1]

    def warnings(self, max_epochs: int) -> Iterator[Problem]:
        """Values that are probably mistakes in trials of `max_epochs` epochs, with paths from this block."""
        longest = bounds_of(self.warmup_epochs)[1]
        if longest > MAX_WARMUP_SHARE * max_epochs:
            rule = f"should be at most half of max_epochs={max_epochs}, because the schedule begins after it"
            yield Problem("warmup_epochs", rule, longest)
        yield from self._faint(max_epochs)
        yield from self.inactive(max_epochs - longest)

    def fade(self, epochs: float) -> Fade | None:
        """When the learning rate is almost nothing for good, of a schedule over `epochs` epochs after warmup; None
        where it never is, or where validation decides."""
        return None

    def _faint(self, max_epochs: int) -> Iterator[Problem]:
        warmup = bounds_of(self.warmup_epochs)[0]
        found = self.fade(max_epochs - warmup)
        if found and (begins := warmup + found.begins) < MAX_FAINT_SHARE * max_epochs:
            rule = (
                f"{found.remedy}, otherwise the learning rate is less than {FAINT:g} of its base from epoch "
                f"{math.ceil(begins) + 1} of {max_epochs} on, where a trial learns almost nothing; or use a schedule "
                "that follows max_epochs, such as cosine"
            )
            yield Problem(found.field, rule, found.value)

    def inactive(self, epochs: float) -> Iterator[Problem]:
        """Values with which the schedule has no effect within `epochs` epochs after warmup."""
        yield from ()


class Constant(SchedulerSpec):
    """The base rate throughout."""

    kind: Literal["constant"] = "constant"

    def multiplier(self, epoch: float, horizon: Horizon) -> float:
        return 1.0


class Plateau(SchedulerSpec):
    """Multiply the rate by `factor` after more than `patience` epochs in a row without improvement of the objective."""

    target: ClassVar[str | None] = "torch.optim.lr_scheduler:ReduceLROnPlateau"
    interval: ClassVar[Literal["epoch", "batch"]] = "epoch"
    monitors: ClassVar[bool] = True
    kind: Literal["plateau"] = "plateau"
    factor: Ratio = Field(0.2, description="Multiplier of the learning rate at each plateau.")
    patience: Searchable[Annotated[Integer, Field(ge=0)]] = Field(
        2,
        description="Number of epochs in a row without improvement that are tolerated before the learning rate is "
        "reduced.",
    )
    threshold: Searchable[Annotated[Number, Field(ge=0)]] = Field(
        1e-4, description="Smallest absolute change of the objective that counts as an improvement."
    )
    min_lr: Searchable[Annotated[Number, Field(ge=0)]] = Field(0.0, description="Lowest learning rate.")

    def arguments(self, horizon: Horizon) -> dict[str, Any]:
        return {
            "mode": horizon.mode,
            "factor": self.factor,
            "patience": self.patience,
            "threshold": self.threshold,
            "threshold_mode": "abs",
            "min_lr": self.min_lr,
        }

    def inactive(self, epochs: float) -> Iterator[Problem]:
        """The first epoch sets the mark, patience + 1 others miss it, and one more trains at the reduced rate."""
        most = math.floor(epochs) - 3
        if (longest := bounds_of(self.patience)[1]) > most:
            limit = f"should be at most {most}, otherwise" if most >= 0 else "has no effect:"
            within = f"within the {counted(epochs, 'epoch')} after warmup"
            rule = f"{limit} the learning rate is not reduced {within}; {ALTERNATIVE}"
            yield Problem("patience", rule, longest)


class Step(SchedulerSpec):
    """Multiply the rate by `gamma` every `step_size` epochs."""

    target: ClassVar[str | None] = "torch.optim.lr_scheduler:StepLR"
    interval: ClassVar[Literal["epoch", "batch"]] = "epoch"
    kind: Literal["step"] = "step"
    step_size: Count = Field(10, description="Number of epochs between two reductions.")
    gamma: Ratio = Field(0.1, description="Multiplier of the learning rate at each reduction.")

    def arguments(self, horizon: Horizon) -> dict[str, Any]:
        return {"step_size": self.step_size, "gamma": self.gamma}

    def inactive(self, epochs: float) -> Iterator[Problem]:
        yield from _never("step_size", self.step_size, epochs, "the learning rate is not reduced")

    def fade(self, epochs: float) -> Fade | None:
        gamma = bounds_of(self.gamma)[0]
        return Fade(_faint_power(gamma) * bounds_of(self.step_size)[0], "gamma", LARGER, gamma)


class MultiStep(SchedulerSpec):
    """Multiply the rate by `gamma` at each milestone, given as a share of the epochs after warmup."""

    target: ClassVar[str | None] = "torch.optim.lr_scheduler:MultiStepLR"
    interval: ClassVar[Literal["epoch", "batch"]] = "epoch"
    kind: Literal["multistep"] = "multistep"
    milestones: tuple[Ratio, ...] = Field(
        (0.5, 0.75),
        min_length=1,
        max_length=100,
        description="When the learning rate is reduced: ascending shares of the epochs after warmup.",
    )
    gamma: Ratio = Field(0.1, description="Multiplier of the learning rate at each milestone.")

    @model_validator(mode="after")
    def _ascending(self) -> MultiStep:
        reach = [bounds_of(milestone) for milestone in self.milestones]
        if any(before[1] >= after[0] for before, after in pairwise(reach)):
            raise field_error("milestones", "must be in ascending order for every value of their domains")
        return self

    def arguments(self, horizon: Horizon) -> dict[str, Any]:
        return {"milestones": [max(1, round(m * horizon.epochs)) for m in self.milestones], "gamma": self.gamma}

    def inactive(self, epochs: float) -> Iterator[Problem]:
        last = bounds_of(self.milestones[-1])[1]
        if max(1, round(last * epochs)) >= epochs:
            after = f"the {counted(epochs, 'epoch')} after warmup"
            rule = f"should be before the last of {after}, to have an effect; {ALTERNATIVE}"
            yield Problem(f"milestones[{len(self.milestones) - 1}]", rule, last)

    def fade(self, epochs: float) -> Fade | None:
        gamma = bounds_of(self.gamma)[0]
        if (power := _faint_power(gamma)) > len(self.milestones):
            return None
        return Fade(max(1, round(bounds_of(self.milestones[power - 1])[0] * epochs)), "gamma", LARGER, gamma)


class Exponential(SchedulerSpec):
    """Multiply the rate by `gamma` after every epoch."""

    target: ClassVar[str | None] = "torch.optim.lr_scheduler:ExponentialLR"
    interval: ClassVar[Literal["epoch", "batch"]] = "epoch"
    kind: Literal["exponential"] = "exponential"
    gamma: Ratio = Field(0.9, description="Multiplier of the learning rate after each epoch.")

    def arguments(self, horizon: Horizon) -> dict[str, Any]:
        return {"gamma": self.gamma}

    def inactive(self, epochs: float) -> Iterator[Problem]:
        if epochs <= 1:
            rule = "should change within an epoch, as cosine does, because there is only one epoch after warmup"
            yield Problem("kind", rule, self.kind)

    def fade(self, epochs: float) -> Fade | None:
        gamma = bounds_of(self.gamma)[0]
        return Fade(_faint_power(gamma), "gamma", LARGER, gamma)


class Polynomial(SchedulerSpec):
    """Fall to zero as (1 - t/T) to the `power`."""

    target: ClassVar[str | None] = "torch.optim.lr_scheduler:PolynomialLR"
    kind: Literal["polynomial"] = "polynomial"
    power: Searchable[Annotated[Number, Field(gt=0, le=10)]] = Field(
        1.0,
        description="Power of the fall: at step t of T the multiplier is (1 - t/T)^power; 1 falls in a straight line.",
    )

    def arguments(self, horizon: Horizon) -> dict[str, Any]:
        return {"total_iters": horizon.steps, "power": self.power}

    def fade(self, epochs: float) -> Fade | None:
        power = bounds_of(self.power)[1]
        return Fade(epochs * (1 - FAINT ** (1 / power)), "power", "should be smaller", power)


class Cosine(SchedulerSpec):
    """Half a cosine from the base rate to `min_factor` of it (Loshchilov and Hutter, 2017).

    The fall takes all epochs after warmup unless `t_max` is given; past its end the rate stays low.
    """

    kind: Literal["cosine"] = "cosine"
    t_max: Epochs | None = Field(
        None, description="Number of epochs that the fall takes after warmup; default: until the end of the trial."
    )
    min_factor: Share = Field(0.0, description="Lowest learning rate as a share of the base rate.")

    def multiplier(self, epoch: float, horizon: Horizon) -> float:
        return _half_cosine(epoch / (self.t_max or horizon.epochs), self.min_factor)

    def warnings(self, max_epochs: int) -> Iterator[Problem]:
        """Also a fall that does not end with the trial; a searched `t_max` may end earlier."""
        searched = isinstance(self.t_max, Domain)
        for found in super().warnings(max_epochs):
            if searched or found.field != "t_max":  # a fixed one is compared below
                yield found
        if self.t_max is None:
            return
        length = bounds_of(self.t_max)[1]
        for warmup in bounds_of(self.warmup_epochs)[:: -1 if searched else 1]:
            end = warmup + length
            if not math.isclose(end, max_epochs) and (end > max_epochs or not searched):
                epochs = f"{counted(float(end), 'epoch')} ({warmup:g} of warmup, then {length:g})"
                rule = (
                    f"the schedule ends after {epochs}, but a trial has max_epochs={max_epochs}; omit this field to "
                    "use all epochs"
                )
                yield Problem("t_max", rule)
                return

    def inactive(self, epochs: float) -> Iterator[Problem]:
        yield from _constant(self.min_factor)

    def fade(self, epochs: float) -> Fade | None:
        if bounds_of(self.min_factor)[0] >= FAINT:
            return None
        end = epochs if self.t_max is None else bounds_of(self.t_max)[0]
        return Fade(end, "t_max", LARGER, end)


class WarmRestarts(SchedulerSpec):
    """Repeated cosine falls, each `t_mult` times as long as the one before, from a peak that decays.

    Each cycle begins with `cycle_warmup` (a share of its length) of linear rise, no batch of it at rate zero.
    Loshchilov and Hutter, 2017, with an optional warmup in each cycle and peaks that decay.
    """

    kind: Literal["warm_restarts"] = "warm_restarts"
    t_0: Searchable[Annotated[Number, Field(ge=0.01)]] | None = Field(
        None, description="Number of epochs of the first cycle; default: a third of the epochs after warmup."
    )
    t_mult: Searchable[Annotated[Number, Field(ge=1, le=1000)]] = Field(
        1.0, description="Length of each cycle as a multiple of the one before it."
    )
    cycle_warmup: Searchable[Annotated[Number, Field(ge=0, lt=1)]] = Field(
        0.0, description="Share of each cycle in which the learning rate rises linearly to its peak."
    )
    peak_decay: Searchable[Annotated[Number, Field(gt=0, le=1)]] = Field(
        1.0, description="Peak of each cycle as a multiple of the one before it."
    )
    min_factor: Share = Field(0.0, description="Lowest learning rate of each cycle as a share of its peak.")

    def multiplier(self, epoch: float, horizon: Horizon) -> float:
        first = self.t_0 or horizon.epochs / 3
        cycle, phase, length = _cycle_of(epoch / first, self.t_mult)
        peak = self.peak_decay**cycle
        if phase < self.cycle_warmup:
            after = phase + 1 / (first * length * horizon.batches)  # at the end of this batch
            return peak * (self.min_factor + (1 - self.min_factor) * min(1.0, after / self.cycle_warmup))
        return peak * _half_cosine((phase - self.cycle_warmup) / (1 - self.cycle_warmup), self.min_factor)

    def inactive(self, epochs: float) -> Iterator[Problem]:
        if self.t_0 is not None:
            yield from _never("t_0", self.t_0, epochs, "the learning rate does not restart")
        yield from _constant(self.min_factor)

    def fade(self, epochs: float) -> Fade | None:
        """The first cycle whose peak is faint."""
        decay, mult = bounds_of(self.peak_decay)[0], bounds_of(self.t_mult)[0]
        if decay == 1:
            return None
        first = epochs / 3 if self.t_0 is None else bounds_of(self.t_0)[0]
        cycle = _faint_power(decay)
        begins = cycle if mult == 1 else math.expm1(min(cycle * math.log(mult), LARGEST_EXPONENT)) / (mult - 1)
        return Fade(first * begins, "peak_decay", LARGER, decay)


class Triangular(SchedulerSpec):
    """Up and down between `min_factor` of the base rate and all of it (Smith, 2017)."""

    target: ClassVar[str | None] = "torch.optim.lr_scheduler:CyclicLR"
    kind: Literal["triangular"] = "triangular"
    half_cycle_epochs: Epochs = Field(2.0, description="Number of epochs of each rise and of each fall.")
    min_factor: Share = Field(0.1, description="Lowest learning rate as a share of the base rate, which is the peak.")
    halve: Searchable[Annotated[bool, Field(strict=True)]] = Field(
        False, description="Whether the amplitude is halved after each cycle."
    )

    def arguments(self, horizon: Horizon) -> dict[str, Any]:
        return {
            "base_lr": horizon.lr * self.min_factor,
            "max_lr": horizon.lr,
            "cycle_momentum": False,
            "step_size_up": max(1, round(min(self.half_cycle_epochs * horizon.batches, LONGEST_HALF_CYCLE))),
            "mode": "triangular2" if self.halve else "triangular",
        }

    def inactive(self, epochs: float) -> Iterator[Problem]:
        yield from _never(
            "half_cycle_epochs", self.half_cycle_epochs, epochs, "the learning rate rises and never falls"
        )
        yield from _constant(self.min_factor)

    def fade(self, epochs: float) -> Fade | None:
        """The first cycle whose peak is faint: in cycle n (from 0), the amplitude is 0.5^n."""
        lowest = bounds_of(self.min_factor)[0]
        if lowest >= FAINT or not bounds_of(self.halve)[1]:
            return None
        cycle = math.floor(math.log2((1 - lowest) / (FAINT - lowest))) + 1
        return Fade(2 * cycle * bounds_of(self.half_cycle_epochs)[0], "halve", "should be false", True)


class OneCycle(SchedulerSpec):
    """One rise and one longer fall over the whole trial; `lr` is the peak (Smith and Topin, 2018)."""

    target: ClassVar[str | None] = "torch.optim.lr_scheduler:OneCycleLR"
    kind: Literal["one_cycle"] = "one_cycle"
    pct_start: Ratio = Field(0.3, description="Share of the steps in which the learning rate rises.")
    div_factor: Searchable[Annotated[Number, Field(ge=1)]] = Field(
        25.0, description="Divisor of the peak rate that gives the first learning rate."
    )
    final_div_factor: Searchable[Annotated[Number, Field(ge=1)]] = Field(
        1e4, description="Divisor of the first learning rate that gives the last one."
    )

    def rise_end(self, max_epochs: int) -> float:
        return max(
            warmup + bounds_of(self.pct_start)[1] * (max_epochs - warmup) for warmup in bounds_of(self.warmup_epochs)
        )

    def arguments(self, horizon: Horizon) -> dict[str, Any]:
        total = max(2, horizon.steps)
        # Torch puts the peak at step rise * total - 1 and divides by it, and by what is left after it.
        flat = abs(self.pct_start * total - 1) < SHORTEST_PHASE
        return {
            "max_lr": horizon.lr,
            "total_steps": total,
            "pct_start": (1 + SHORTEST_PHASE) / total if flat else self.pct_start,
            "div_factor": self.div_factor,
            "final_div_factor": self.final_div_factor,
            "cycle_momentum": False,
        }


def _faint_power(factor: float) -> int:
    """The lowest power of a factor that is less than FAINT."""
    return math.floor(math.log(FAINT) / math.log(factor) + 1e-9) + 1


def _never(field: str, length: Any, epochs: float, what: str) -> Iterator[Problem]:
    """A length, in epochs after warmup, before whose end nothing happens."""
    if (longest := bounds_of(length)[1]) >= epochs:
        rule = f"should be less than the {counted(epochs, 'epoch')} after warmup, otherwise {what}; {ALTERNATIVE}"
        yield Problem(field, rule, longest)


def _constant(min_factor: Any) -> Iterator[Problem]:
    if (lowest := bounds_of(min_factor)[0]) == 1:
        yield Problem("min_factor", "should be less than 1, otherwise the learning rate is constant", lowest)


def _cycle_of(elapsed: float, mult: float) -> tuple[int, float, float]:
    """Number of the cycle (from 0), the share of it that is over, and its length in lengths of the first cycle.

    The lengths 1, m, m^2, ... sum to (m^n - 1) / (m - 1) before cycle n; for m near 1 by log1p and expm1.
    """
    if mult == 1:
        return int(elapsed), elapsed - int(elapsed), 1.0
    growth = math.log(mult)
    cycle = int(math.log1p(elapsed * (mult - 1)) / growth + 1e-9)  # what ends a cycle begins the next
    begun, length = math.expm1(cycle * growth) / (mult - 1), math.exp(cycle * growth)
    return cycle, min(1.0, max(0.0, (elapsed - begun) / length)), length


def _half_cosine(phase: float, floor: float) -> float:
    return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, phase))) / 2


Scheduler = Annotated[
    Constant | Plateau | Step | MultiStep | Exponential | Polynomial | Cosine | WarmRestarts | Triangular | OneCycle,
    Discriminated,
    KindShorthand,
]
