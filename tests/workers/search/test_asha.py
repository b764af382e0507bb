"""ASHA: Ray's own class is the oracle for finite values; what Ray gets wrong is tested apart."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from search_spaces.asha import AshaSpec
from search_spaces.experiment import Objective
from search_spaces.protocol import TrialState
from workers.search.asha import Asha

MAX, MIN = Objective(), Objective.model_validate({"metric": "validation_loss"})
NINE = AshaSpec(max_t=9, grace_period=1, reduction_factor=3)


def scheduled(asha: Asha, number: int, result: dict[str, Any]) -> str:
    """The answer to Tune, by way of Ray's hook."""
    return asha.on_trial_result(None, SimpleNamespace(trial_id=str(number), config={"trial": number}), result)


specs = st.builds(
    AshaSpec,
    max_t=st.integers(4, 30),
    grace_period=st.integers(1, 4),
    reduction_factor=st.sampled_from([1.5, 2, 2.5, 3, 4.0]),
)
values = st.integers(-4, 4).map(lambda value: value / 4)  # few, so that many are equal


@given(specs, st.sampled_from([MAX, MIN]), st.lists(st.tuples(st.integers(0, 7), values), max_size=120))
def test_finite_values_are_judged_as_ray_does(
    spec: AshaSpec, objective: Objective, reports: list[tuple[int, float]]
) -> None:
    ours = Asha(spec, objective)
    rays = AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=objective.metric,
        mode=objective.mode,
        max_t=spec.max_t,
        grace_period=spec.grace_period,
        reduction_factor=spec.reduction_factor,
    )
    epochs: dict[int, int] = {}
    stopped = set()
    for number, value in reports:
        if number in stopped:
            continue
        trial: Any = SimpleNamespace(trial_id=str(number))
        if number not in epochs:
            rays.on_trial_add(None, trial)
        epochs[number] = epochs.get(number, 0) + 1
        result = {"epoch": epochs[number], objective.metric: value}
        expected = rays.on_trial_result(None, trial, result)
        assert scheduled(ours, number, result) == expected
        if expected == TrialScheduler.STOP:
            stopped.add(number)
    assert set(ours.outcomes) == stopped
    assert {epoch: sorted(found) for epoch, found in ours.rungs().items()} == {
        milestone: sorted(int(name) for name in recorded) for milestone, recorded in rays._brackets[0]._rungs
    }


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([1.25, 1.5, 2, 2.5, 3, 4.0, 10]) | st.floats(1.25, 100).map(lambda factor: round(factor, 2)),
)
def test_the_spec_tells_the_epochs_at_which_ray_compares(max_t: int, grace: int, factor: float) -> None:
    spec = AshaSpec(max_t=max(max_t, grace), grace_period=grace, reduction_factor=factor)
    rays = AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=MAX.metric,
        mode=MAX.mode,
        max_t=spec.max_t,
        grace_period=grace,
        reduction_factor=factor,
    )
    trial: Any = SimpleNamespace(trial_id="0")
    rays.on_trial_add(None, trial)
    compared, before = [], 0
    for epoch in range(1, spec.max_t + 1):
        rays.on_trial_result(None, trial, {"epoch": epoch, MAX.metric: 0.5})
        recorded = sum(len(values) for _, values in rays._brackets[0]._rungs)
        compared += [epoch] * (recorded - before)
        before = recorded
    assert spec.rungs() == compared


@given(
    specs,
    st.lists(st.tuples(st.integers(0, 7), st.one_of(values, st.sampled_from([math.nan, math.inf]))), max_size=120),
)
def test_replay_in_the_order_of_events_fills_equal_rungs(spec: AshaSpec, reports: list[tuple[int, float]]) -> None:
    first, again = Asha(spec, MAX), Asha(spec, MAX)
    told: list[tuple[int, int, float]] = []
    epochs: dict[int, int] = {}
    for number, value in reports:
        if number in first.outcomes:
            continue
        epochs[number] = epochs.get(number, 0) + 1
        told.append((number, epochs[number], value))
        scheduled(first, number, {"epoch": epochs[number], MAX.metric: value})
    for number, epoch, value in told:
        again.decide(number, epoch, {MAX.metric: value})
    assert again.rungs() == first.rungs()
    for number, epoch, value in told:
        assert again.decide(number, epoch, {MAX.metric: value}) is None
    assert again.rungs() == first.rungs()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_a_value_that_is_not_finite_ends_the_trial(value: float | None) -> None:
    outcome = Asha(NINE, MAX).decide(0, 1, {"validation_accuracy": value})
    assert outcome is not None
    state, reason = outcome
    assert state == TrialState.DIVERGED
    assert reason == (
        "validation_accuracy was not reported, after epoch 1"
        if value is None
        else f"validation_accuracy was {value}, which is not finite, after epoch 1"
    )


def test_a_missing_metric_ends_the_trial_and_nothing_else() -> None:
    asha = Asha(NINE, MAX)
    assert scheduled(asha, 0, {"epoch": 1}) == TrialScheduler.STOP
    assert asha.outcomes[0][0] == TrialState.DIVERGED


def test_a_loss_that_is_not_finite_ends_the_trial_whatever_its_accuracy() -> None:
    outcome = Asha(NINE, MAX).decide(0, 2, {"validation_accuracy": 0.1, "diverged": True})
    assert outcome == (TrialState.DIVERGED, "the loss was not finite in epoch 2")


def test_a_diverged_trial_counts_as_the_worst_of_its_rung() -> None:
    asha = Asha(NINE, MAX)
    asha.decide(0, 1, {"validation_accuracy": math.nan})
    assert asha.rungs()[1] == {}
    for number, value in ((1, 0.5), (2, 0.9)):
        asha.decide(number, 1, {"validation_accuracy": value})
    asha.decide(3, 1, {"validation_accuracy": math.nan})
    assert asha.rungs()[1] == {1: 0.5, 2: 0.9, 3: 0.5}


def test_the_last_epoch_completes() -> None:
    assert Asha(NINE, MAX).decide(0, 9, {"validation_accuracy": 0.1}) == (TrialState.COMPLETED, "all 9 epochs done")


@pytest.mark.parametrize(
    ("objective", "others", "value", "sentence"),
    [
        (
            MAX,
            (0.2, 0.5, 0.8),
            0.3,
            "rung at epoch 1: validation_accuracy 0.3000 is below the cut 0.6000, "
            "set by the best 1/3 of the 3 before it",
        ),
        (
            MIN,
            (2.0, 1.0),
            1.9,
            "rung at epoch 1: validation_loss 1.9000 is above the cut 1.3333, set by the best 1/3 of the 2 before it",
        ),
        (
            MAX,
            (0.6,),
            0.3,
            "rung at epoch 1: validation_accuracy 0.3000 is below the cut 0.6000, set by the one before it",
        ),
    ],
)
def test_reasons_name_rung_cut_and_value(
    objective: Objective, others: tuple[float, ...], value: float, sentence: str
) -> None:
    asha = Asha(NINE, objective)
    for number, other in enumerate(others):
        asha.decide(number, 1, {objective.metric: other})
    assert asha.decide(99, 1, {objective.metric: value}) == (TrialState.EARLY_STOPPED, sentence)


def test_grace_equal_to_the_end_stops_nobody() -> None:
    asha = Asha(AshaSpec(max_t=3, grace_period=3), MAX)
    for number in range(20):
        for epoch in (1, 2):
            assert asha.decide(number, epoch, {"validation_accuracy": -number}) is None


def test_orders_are_looked_at_in_every_step() -> None:
    looks: list[Any] = []
    asha = Asha(NINE, MAX, looks.append)
    controller: Any = SimpleNamespace(get_trials=list)
    assert asha.choose_trial_to_run(controller) is None
    assert looks == [controller]
