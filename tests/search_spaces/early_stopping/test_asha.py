"""ASHA decides on finite values as Ray Tune's own class does; diverged trials, which Ray's lets continue, count."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from search_spaces.early_stopping.asha import Asha
from search_spaces.early_stopping.base import CONTINUE, Action, Comparison, StoppingRule
from tests.support.contracts.stopping_rule import StoppingRuleContract

MAX = Comparison("validation_accuracy", 1, 9)
MIN = Comparison("validation_loss", -1, 9)

specs = st.builds(
    Asha,
    grace_period=st.integers(1, 6),
    reduction_factor=st.sampled_from([1.25, 1.5, 2, 2.5, 3, 4.0, 10])
    | st.floats(1.25, 100).map(lambda factor: round(factor, 2)),
)
#: Few values, so that many are equal, and arbitrary ones, so that rounding matters.
values = st.integers(-4, 4).map(lambda value: value / 4) | st.floats(-10, 10)


class TestAsha(StoppingRuleContract):
    @pytest.fixture(params=[(1, 2), (2, 1.5), (3, 4)], ids=str)
    def early_stopping(self, request: pytest.FixtureRequest) -> Asha:
        grace, factor = request.param
        return Asha(grace_period=grace, reduction_factor=factor)


def asha(comparison: Comparison = MAX, grace: int = 1, factor: float = 3) -> StoppingRule:
    return Asha(grace_period=grace, reduction_factor=factor).rule(comparison)


@given(
    specs,
    st.sampled_from([1, -1]),
    st.integers(1, 30),
    st.lists(st.tuples(st.integers(0, 7), values), max_size=120),
)
def test_finite_values_are_decided_as_by_ray(
    spec: Asha, sign: int, max_epochs: int, reports: list[tuple[int, float]]
) -> None:
    """Any number of trials, in any order, up to the epoch before the last."""
    max_epochs = max(max_epochs, spec.grace_period)
    ours = spec.rule(Comparison("value", sign, max_epochs))
    rays = AsyncHyperBandScheduler(
        time_attr="epoch",
        metric="value",
        mode="max" if sign > 0 else "min",
        max_t=max_epochs,
        grace_period=spec.grace_period,
        reduction_factor=spec.reduction_factor,
    )
    epochs: dict[int, int] = {}
    stopped: set[int] = set()
    for number, value in reports:
        epoch = epochs.get(number, 0) + 1
        if number in stopped or epoch >= max_epochs:
            continue
        trial: Any = SimpleNamespace(trial_id=str(number))
        if number not in epochs:
            rays.on_trial_add(None, trial)
        epochs[number] = epoch
        expected = rays.on_trial_result(None, trial, {"epoch": epoch, "value": value})
        decision = ours.decide(number, epoch, value)
        assert (decision.action is Action.STOP) == (expected == TrialScheduler.STOP)
        if decision.action is Action.STOP:
            stopped.add(number)


@pytest.mark.parametrize(
    ("comparison", "others", "value", "reason"),
    [
        (
            MAX,
            (0.2, 0.5, 0.8),
            0.3,
            "rung at epoch 1: validation_accuracy 0.3000 is below 0.6000, "
            "the cutoff for the best 1/3 of 3 earlier trials",
        ),
        (
            MIN,
            (2.0, 1.0),
            1.9,
            "rung at epoch 1: validation_loss 1.9000 is above 1.3333, the cutoff for the best 1/3 of 2 earlier trials",
        ),
        (
            MAX,
            (0.6,),
            0.3,
            "rung at epoch 1: validation_accuracy 0.3000 is below 0.6000, the cutoff for 1 earlier trial",
        ),
    ],
)
def test_a_reason_names_the_rung_the_cutoff_and_the_value(
    comparison: Comparison, others: tuple[float, ...], value: float, reason: str
) -> None:
    rule = asha(comparison)
    for number, other in enumerate(others):
        rule.decide(number, 1, other)
    decision = rule.decide(99, 1, value)
    assert (decision.action, decision.reason) == (Action.STOP, reason)


def test_the_first_trial_at_a_rung_and_a_value_at_the_cutoff_continue() -> None:
    rule = asha()
    assert rule.decide(0, 1, 0.5) == CONTINUE
    assert rule.decide(1, 1, 0.5) == CONTINUE
    assert rule.decide(0, 3, 0.1) == CONTINUE


def test_a_diverged_trial_counts_as_the_worst_of_its_rung() -> None:
    rule, without = asha(), asha()
    for either in (rule, without):
        either.decide(1, 1, 0.5)
        either.decide(2, 1, 0.9)
    rule.decide(3, 1, math.nan)
    assert "below 0.6333, the cutoff for the best 1/3 of 3" in rule.decide(4, 1, 0.1).reason
    assert "below 0.7667, the cutoff for the best 1/3 of 2" in without.decide(4, 1, 0.1).reason


def test_the_only_trial_at_a_rung_sets_no_cutoff_if_it_has_diverged() -> None:
    rule = asha()
    rule.decide(0, 1, math.nan)
    assert rule.decide(1, 1, -1e9) == CONTINUE


@pytest.mark.parametrize("grace", [9, 12])
def test_a_grace_period_of_all_epochs_stops_no_trial(grace: int) -> None:
    rule = asha(grace=grace)
    for number in range(20):
        for epoch in range(1, 9):
            assert rule.decide(number, epoch, -number) == CONTINUE
