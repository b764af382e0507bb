"""Learning rates of every batch against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import nn

from search_spaces.schedulers import (
    FAINT,
    Cosine,
    MultiStep,
    OneCycle,
    Plateau,
    Scheduler,
    SchedulerSpec,
    Step,
    Triangular,
    WarmRestarts,
)
from tests.support.families import kinds
from workers.training.schedule import Schedule

BASE, BATCHES, EPOCHS = 0.5, 7, 12
SCHEDULERS: TypeAdapter[SchedulerSpec] = TypeAdapter(Scheduler)


def make(
    spec: SchedulerSpec, batches: int = BATCHES, epochs: int = EPOCHS, mode: Any = "max"
) -> tuple[Schedule, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=BASE)
    return Schedule(spec, optimizer, batches, epochs, BASE, mode), optimizer


def rates(spec: SchedulerSpec, batches: int = BATCHES, epochs: int = EPOCHS) -> list[float]:
    """The rate of each batch of a trial. The optimizer never steps, which must not cause a warning."""
    schedule, optimizer = make(spec, batches, epochs)
    curve = []
    for _ in range(epochs):
        for _ in range(batches):
            curve.append(optimizer.param_groups[0]["lr"])
            schedule.batch_done()
            assert schedule.rate_of_last_batch == curve[-1]
        schedule.epoch_done(0.5)
    return curve


@pytest.mark.parametrize("warmup", [0, 1, 1.5])
@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "exponential", "gamma": 0.3},
        {"kind": "step", "step_size": 2, "gamma": 0.05},
        {"kind": "multistep", "milestones": [0.2, 0.3, 0.6], "gamma": 0.09},
        {"kind": "multistep", "milestones": [0.2, 0.3, 0.4, 0.6], "gamma": 0.1},
        {"kind": "polynomial", "power": 10},
        {"kind": "polynomial", "power": 3},
        {"kind": "cosine", "t_max": 4},
        {"kind": "warm_restarts", "t_0": 1, "t_mult": 2, "peak_decay": 0.02},
        {"kind": "warm_restarts", "t_0": 0.5, "peak_decay": 0.09},
        {"kind": "triangular", "half_cycle_epochs": 2 / 7, "min_factor": 0, "halve": True},
    ],
)
def test_when_a_schedule_fades(spec: dict[str, Any], warmup: float) -> None:
    """From its last batch that is not faint on, less than a cycle later than said, and never later."""
    scheduler = SCHEDULERS.validate_python(spec | {"warmup_epochs": warmup})
    curve = rates(scheduler)
    last = max(number for number, rate in enumerate(curve, 1) if rate >= FAINT * BASE) / BATCHES
    start = round(warmup * BATCHES) / BATCHES  # whole batches
    found = scheduler.fade(EPOCHS - start)
    assert found is not None
    said = start + found.begins
    assert said - 1 / 2 < last <= said + 1 / BATCHES


def triangle(step: int, half: int, low: float, high: float) -> float:
    return low + (high - low) * (1 - abs(step / half - 2 * math.floor(1 + step / (2 * half)) + 1))


def one_cycle(step: int, total: int, rise: float, start: float, end: float) -> float:
    top = rise * total - 1
    if step <= top:
        low, high, phase = start, 1.0, step / top
    else:
        low, high, phase = 1.0, start * end, (step - top) / (total - 1 - top)
    return BASE * (high + (low - high) * (1 + math.cos(math.pi * phase)) / 2)


def restarts(epoch: float, length: float, mult: float, warmup: float, decay: float) -> float:
    starts, lengths = [0.0], [length]
    while starts[-1] + lengths[-1] <= epoch:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * mult)
    phase = (epoch - starts[-1]) / lengths[-1]
    peak = BASE * decay ** (len(starts) - 1)
    if phase < warmup:
        return peak * min(1.0, (phase + 1 / (lengths[-1] * BATCHES)) / warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * (phase - warmup) / (1 - warmup)))


#: kind -> (arguments, closed form of the rate at batch s of `total`, both counted from the end of warmup).
CLOSED: dict[str, tuple[dict[str, Any], Callable[[int, int], float]]] = {
    "constant": ({}, lambda s, total: BASE),
    "plateau": ({"patience": 100}, lambda s, total: BASE),
    "step": ({"step_size": 3, "gamma": 0.2}, lambda s, total: BASE * 0.2 ** (s // BATCHES // 3)),
    "multistep": (
        {"milestones": [0.5, 0.75], "gamma": 0.1},
        lambda s, total: BASE * 0.1 ** sum(s // BATCHES >= round(m * total / BATCHES) for m in (0.5, 0.75)),
    ),
    "exponential": ({"gamma": 0.9}, lambda s, total: BASE * 0.9 ** (s // BATCHES)),
    "polynomial": ({"power": 2.0}, lambda s, total: BASE * (1 - s / total) ** 2),
    "cosine": (
        {"min_factor": 0.1},
        lambda s, total: BASE * (0.1 + 0.9 * (1 + math.cos(math.pi * s / total)) / 2),
    ),
    "warm_restarts": (
        {"t_0": 2, "t_mult": 2.0, "cycle_warmup": 0.25, "peak_decay": 0.5},
        lambda s, total: restarts(s / BATCHES, 2, 2.0, 0.25, 0.5),
    ),
    "triangular": (
        {"half_cycle_epochs": 2, "min_factor": 0.1},
        lambda s, total: triangle(s, 2 * BATCHES, 0.1 * BASE, BASE),
    ),
    "one_cycle": (
        {"pct_start": 0.25, "div_factor": 10, "final_div_factor": 100},
        lambda s, total: one_cycle(s, total, 0.25, 1 / 10, 1 / 100),
    ),
}


@pytest.mark.parametrize("warmup", [0, 2, 3 / BATCHES, 1 + 3 / BATCHES])
@pytest.mark.parametrize("kind", kinds(Scheduler))
def test_every_rate_follows_the_closed_form_after_linear_warmup(kind: str, warmup: int) -> None:
    arguments, closed = CLOSED[kind]
    spec = kinds(Scheduler)[kind](**arguments, warmup_epochs=warmup)
    first, total = round(warmup * BATCHES), EPOCHS * BATCHES
    expected = [BASE * (b + 1) / first for b in range(first)]
    expected += [closed(s, total - first) for s in range(total - first)]
    assert rates(spec) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kind", kinds(Scheduler))
@settings(max_examples=15, deadline=None)
@given(batches=st.integers(1, 9), epochs=st.integers(1, 6), warmup=st.floats(0, 0.9), data=st.data())
def test_every_rate_is_at_most_the_base_rate_and_resumes_from_a_checkpoint(
    kind: str, batches: int, epochs: int, warmup: float, data: st.DataObject
) -> None:
    spec = kinds(Scheduler)[kind](warmup_epochs=warmup)
    whole, optimizer = make(spec, batches, epochs)
    stop = data.draw(st.integers(0, epochs))
    curve, saved = [], whole.state_dict() if stop == 0 else None
    for epoch in range(1, epochs + 1):
        for _ in range(batches):
            curve.append(optimizer.param_groups[0]["lr"])
            whole.batch_done()
        whole.epoch_done(0.1)
        if epoch == stop:
            saved = whole.state_dict()
    assert all(0 <= rate <= BASE * (1 + 1e-9) for rate in curve)
    second, other = make(spec, batches, epochs)
    second.load_state_dict(saved)
    rest = []
    for _ in range(stop, epochs):
        for _ in range(batches):
            rest.append(other.param_groups[0]["lr"])
            second.batch_done()
        second.epoch_done(0.1)
    assert rest == curve[stop * batches :]


@pytest.mark.parametrize(("mode", "better"), [("max", 0.1), ("min", -0.1)])
@pytest.mark.parametrize("factor", [0.5, 0.2, 0.1])
def test_a_plateau_lowers_the_rate_when_the_value_stops_improving(mode: str, better: float, factor: float) -> None:
    schedule, optimizer = make(Plateau(factor=factor, patience=1), batches=1, epochs=20, mode=mode)
    curve, value = [], 0.0
    for improves in (True, True, False, False, True, False, False, False, False):
        value += better if improves else 0.0
        schedule.batch_done()
        schedule.epoch_done(value)
        curve.append(optimizer.param_groups[0]["lr"])
    drops = [0, 0, 0, 1, 1, 1, 2, 2, 3]
    assert curve == pytest.approx([BASE * factor**n for n in drops])


@pytest.mark.parametrize("patience", [0, 1, 3])
def test_a_plateau_tolerates_as_many_epochs_as_its_patience_and_acts_on_the_next(patience: int) -> None:
    schedule, _ = make(Plateau(factor=0.5, patience=patience), batches=1, epochs=20)
    for epoch in range(1, 2 * patience + 4):
        schedule.batch_done()
        schedule.epoch_done(0.0)  # only the first epoch is an improvement
        assert schedule.rate == BASE * 0.5 ** ((epoch - 1) // (patience + 1))


@pytest.mark.parametrize(
    ("fields", "gain", "counts"),
    [({}, 0.9e-4, False), ({}, 1.1e-4, True), ({"threshold": 0.1}, 0.09, False), ({"threshold": 0.1}, 0.11, True)],
)
def test_a_plateau_counts_no_gain_below_its_threshold(fields: dict[str, float], gain: float, counts: bool) -> None:
    schedule, _ = make(Plateau(factor=0.5, patience=0, **fields), batches=1, epochs=20)
    for value in (0.5, 0.5 + gain):
        schedule.batch_done()
        schedule.epoch_done(value)
    assert schedule.rate == (BASE if counts else BASE / 2)


@pytest.mark.parametrize("warmup", [3.5, 4])
def test_a_plateau_does_not_count_epochs_that_are_wholly_or_partly_warmup(warmup: float) -> None:
    schedule, optimizer = make(Plateau(factor=0.5, patience=0, warmup_epochs=warmup), batches=2, epochs=8)
    curve = []
    for value in (0.9, 0.9, 0.9, 0.9, 0.1, 0.2, 0.2):
        schedule.batch_done()
        schedule.batch_done()
        schedule.epoch_done(value)
        curve.append(optimizer.param_groups[0]["lr"])
    assert curve[3:] == [BASE, BASE, BASE, BASE / 2], "the fifth epoch must be the first that counts"


def test_a_plateau_stops_at_its_lowest_rate() -> None:
    schedule, optimizer = make(Plateau(factor=0.1, patience=0, min_lr=0.01), batches=1, epochs=30)
    for _ in range(10):
        schedule.batch_done()
        schedule.epoch_done(0.0)
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_cycles_do_not_change_the_momentum() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=BASE, momentum=0.7)
    schedule = Schedule(kinds(Scheduler)["one_cycle"](), optimizer, 3, 3, BASE, "max")
    for _ in range(9):
        schedule.batch_done()
    assert optimizer.param_groups[0]["momentum"] == 0.7


def test_the_error_for_a_warmup_as_long_as_the_trial_has_both_values() -> None:
    with pytest.raises(ValueError, match=r"got 3\.0 and 3"):
        make(kinds(Scheduler)["cosine"](warmup_epochs=3.0), epochs=3)


@pytest.mark.parametrize("rise", [0.1, 0.2, 0.25, 0.3, 1 / 3, 0.5, 0.7, 0.9])
def test_one_cycle_works_with_any_number_of_steps(rise: float) -> None:
    for steps in range(1, 41):
        curve = rates(OneCycle(pct_start=rise), batches=1, epochs=steps)
        assert all(0 < rate <= BASE * (1 + 1e-9) for rate in curve), (rise, steps, curve)
        if rise * steps >= 1 and steps > 1:
            assert curve[-1] < min(curve[:-1])


@pytest.mark.parametrize("mult", [1.0, 1 + 1e-9, 1.1, 1.5, 2.0, 10.0])
@pytest.mark.parametrize("length", [0.3, 1.0, 2.5])
def test_warm_restarts_agree_with_cycles_counted_one_by_one(length: float, mult: float) -> None:
    curve = rates(WarmRestarts(t_0=length, t_mult=mult, peak_decay=0.8, cycle_warmup=0.2))
    for step, rate in enumerate(curve):
        expected = [restarts(step / BATCHES + shift, length, mult, 0.2, 0.8) for shift in (-1e-6, 0, 1e-6)]
        assert min(abs(rate - value) for value in expected) < 1e-5, (step, rate, expected)


def test_many_short_cycles_take_no_time() -> None:
    spec = WarmRestarts(t_0=0.01, t_mult=1.0)
    assert spec.multiplier(1e12, make(spec)[0]._horizon) >= 0  # counting the cycles one by one would never end
    with pytest.raises(ValueError, match=r"0\.01"):
        WarmRestarts(t_0=1e-12)


def test_a_cosine_reaches_its_lowest_rate_after_t_max_epochs_and_keeps_it() -> None:
    whole, short = rates(Cosine(min_factor=0.2)), rates(Cosine(t_max=4, min_factor=0.2))
    fall = [BASE * (0.2 + 0.8 * (1 + math.cos(math.pi * s / (4 * BATCHES))) / 2) for s in range(4 * BATCHES)]
    assert short == pytest.approx(fall + [0.2 * BASE] * (8 * BATCHES))
    assert whole[4 * BATCHES] > 2 * short[4 * BATCHES]


def test_warm_restarts_have_three_cycles_by_default() -> None:
    curve = rates(WarmRestarts())
    peaks = [step for step, rate in enumerate(curve) if rate == pytest.approx(BASE)]
    assert peaks == [0, EPOCHS * BATCHES // 3, 2 * EPOCHS * BATCHES // 3]


def test_the_warmup_of_a_cycle_begins_above_the_lowest_rate_and_reaches_the_peak() -> None:
    curve = rates(WarmRestarts(t_0=4, cycle_warmup=0.25, min_factor=0.1, peak_decay=0.5))
    for cycle in range(3):
        first, peak = 4 * BATCHES * cycle, BASE * 0.5**cycle
        rise = [peak * (0.1 + 0.9 * (b + 1) / BATCHES) for b in range(BATCHES)]
        assert curve[first : first + BATCHES + 1] == pytest.approx([*rise, peak])


def test_warm_restarts_never_have_a_rate_of_zero() -> None:
    for spec in (WarmRestarts(cycle_warmup=0.3), WarmRestarts(t_0=1, t_mult=2, cycle_warmup=0.01)):
        assert min(rates(spec)) > 0


def test_triangular_cycles_halve_on_request() -> None:
    low, half = 0.1 * BASE, 2 * BATCHES
    curve = rates(Triangular(half_cycle_epochs=2, min_factor=0.1, halve=True))
    expected = [low + (triangle(s, half, low, BASE) - low) / 2 ** (s // (2 * half)) for s in range(EPOCHS * BATCHES)]
    assert curve == pytest.approx(expected)
    assert max(curve[2 * half :]) == pytest.approx(low + (BASE - low) / 2)


@pytest.mark.parametrize(
    "specs",
    [
        [Plateau(patience=patience, warmup_epochs=1.5) for patience in range(11)],
        [Step(step_size=size, warmup_epochs=2) for size in range(1, 13)],
        [MultiStep(milestones=(at / 40,)) for at in range(1, 40)],
        [WarmRestarts(t_0=length) for length in range(8, 14)],
        [Triangular(half_cycle_epochs=length) for length in range(8, 14)],
    ],
    ids=lambda specs: specs[0].kind,
)
def test_a_warning_is_given_exactly_where_a_schedule_never_acts(specs: list[SchedulerSpec]) -> None:
    for spec in specs:
        assert acted(spec) == (not list(spec.warnings(EPOCHS))), spec


def acted(spec: SchedulerSpec) -> bool:
    """Whether the rate restarts or, for other schedules, falls after warmup, in a trial that does not improve."""
    schedule, optimizer = make(spec)
    warmup = round(spec.warmup_epochs * BATCHES)
    curve = []
    for epoch in range(EPOCHS):
        for _ in range(BATCHES):
            curve.append(optimizer.param_groups[0]["lr"])
            schedule.batch_done()
        schedule.epoch_done(-epoch)  # worse than before
    after = list(pairwise(curve[warmup:]))
    restarts = isinstance(spec, WarmRestarts)
    return any(later > before if restarts else later < before for before, later in after)
