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
    ties=st.just("continue"),
    grace_period=st.integers(1, 6),
    reduction_factor=st.sampled_from([1.25, 1.5, 2, 2.5, 3, 4.0, 10])
    | st.floats(1.25, 100).map(lambda factor: round(factor, 2)),
)
#: Few values, so that many are equal, and arbitrary ones, so that rounding matters.
values = st.integers(-4, 4).map(lambda value: value / 4) | st.floats(-10, 10)


class TestAsha(StoppingRuleContract):
    @pytest.fixture(params=[(1, 2, 0), (2, 1.5, 0.5), (3, 4, 0.25)], ids=str)
    def early_stopping(self, request: pytest.FixtureRequest) -> Asha:
        grace, factor, smoothing = request.param
        return Asha(grace_period=grace, reduction_factor=factor, smoothing=smoothing)


def asha(comparison: Comparison = MAX, grace: int = 1, factor: float = 3, **fields: Any) -> StoppingRule:
    return Asha(grace_period=grace, reduction_factor=factor, **fields).rule(comparison)


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


#: Values and losses of earlier trials, a trial's own, and why it stops, for the best half of the earlier ones.
TIES: list[tuple[list[tuple[float, float | None]], tuple[float, float | None], str]] = [
    # One earlier trial is the cutoff.
    ([(0.5, 1.0)], (0.5, 1.0), ""),
    ([(0.5, 1.0)], (0.5, 1.1), "equals the cutoff for 1 earlier trial, and validation_loss 1.1000 is above 1.0000"),
    # The cutoff lies between two of equal accuracy: halfway between their losses, 1.0 and 2.0.
    ([(0.1, 9.0), (0.5, 2.0), (0.5, 1.0), (0.9, 9.0)], (0.5, 1.5), ""),
    ([(0.1, 9.0), (0.5, 2.0), (0.5, 1.0), (0.9, 9.0)], (0.5, 1.6), "validation_loss 1.6000 is above 1.5000"),
    # All are at the accuracy of guessing: the better half by loss continues.
    ([(0.1, 2.3), (0.1, 2.1), (0.1, 2.2)], (0.1, 2.2), ""),
    ([(0.1, 2.3), (0.1, 2.1), (0.1, 2.2)], (0.1, 2.21), "validation_loss 2.2100 is above 2.2000"),
    # A better accuracy is better whatever the loss, and a worse one is worse.
    ([(0.5, 1.0)], (0.6, 9.0), ""),
    ([(0.5, 1.0)], (0.4, 0.1), "is below 0.5000"),
    # The cutoff lies between two different accuracies, and the trial's equals it by chance.
    ([(0.25, 0.1), (0.75, 0.1)], (0.5, 9.0), ""),
    # A loss is unknown: the trial continues.
    ([(0.5, 1.0)], (0.5, None), ""),
    ([(0.5, None)], (0.5, 1.0), ""),
    ([(0.5, None), (0.5, 1.0)], (0.5, 9.0), ""),
]


@pytest.mark.parametrize(("others", "own", "reason"), TIES)
def test_the_validation_loss_decides_between_equal_values(
    others: list[tuple[float, float | None]], own: tuple[float, float | None], reason: str
) -> None:
    rule, as_version_0_1 = asha(factor=2), asha(factor=2, ties="continue")
    for number, other in enumerate(others):
        rule.decide(number, 1, *other)
        as_version_0_1.decide(number, 1, *other)
    decision = rule.decide(99, 1, *own)
    assert (decision.action is Action.STOP) == bool(reason)
    assert reason in decision.reason
    if "below" not in reason:
        assert as_version_0_1.decide(99, 1, *own) == CONTINUE


@pytest.mark.parametrize("count", [4, 10, 16, 19, 22])
def test_a_tie_is_found_where_the_position_of_the_cutoff_is_rounded(count: int) -> None:
    """The cutoff of the best third is one of `count` values, although (count - 1) * (1 - 1/3) may miss an integer."""
    rule = asha()
    for number in range(count):
        rule.decide(number, 1, float(number), 1.0)
    cutoff = float(2 * (count - 1) // 3)
    assert "equals the cutoff" in rule.decide(98, 1, cutoff, 1.1).reason


def test_an_objective_that_is_a_loss_has_no_second_one() -> None:
    rule = asha(MIN)
    assert rule.decide(0, 1, 1.0, 1.0) == CONTINUE
    assert rule.decide(1, 1, 1.0, 1.0) == CONTINUE
    assert rule.decide(2, 1, 1.1, 1.1).reason.startswith("rung at epoch 1: validation_loss 1.1000 is above 1.0000")


@pytest.mark.parametrize(
    ("smoothing", "reason"),
    [(0, ""), (0.5, "rung at epoch 3: validation_accuracy 0.4000 is below 0.4500, the cutoff for 1 earlier trial")],
)
def test_smoothing_compares_the_mean_of_the_newest_epochs(smoothing: float, reason: str) -> None:
    """Half of 3 epochs are 2, of which the means are 0.45 and 0.4, although the second trial's last one is better."""
    rule = asha(grace=3, smoothing=smoothing)
    decisions = [
        rule.decide(number, epoch, value)
        for number, curve in enumerate(((0.3, 0.4, 0.5), (0.3, 0.2, 0.6)))
        for epoch, value in enumerate(curve, start=1)
    ]
    assert decisions[:-1] == [CONTINUE] * 5
    assert decisions[-1].reason == reason


def test_smoothing_compares_the_only_epoch_that_there_is() -> None:
    rule = asha(smoothing=0.5)
    rule.decide(0, 1, 0.5)
    assert "0.4000 is below 0.5000" in rule.decide(1, 1, 0.4).reason
