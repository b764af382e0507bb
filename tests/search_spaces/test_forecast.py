"""The forecast: its bounds hold for every spec, and the search that it simulates is that of the rule itself."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import forecast, presets
from search_spaces.early_stopping.base import Action, Comparison
from search_spaces.experiment import ExperimentSpec
from search_spaces.forecast import Measured, count_trials, slot_hours, trial_epochs


def spec_of(trials: int, epochs: int, early_stopping: Any, **more: Any) -> ExperimentSpec:
    """A search over one interval."""
    space = {"optimizer": {"kind": "adam", "lr": {"loguniform": [0.001, 0.1]}}}
    document = {"name": "x", "search_space": space, "searcher": {"kind": "random", "num_samples": trials}}
    return ExperimentSpec.model_validate(
        document | {"max_epochs": epochs, "early_stopping": early_stopping, "finalists": {"trials": 0}} | more
    )


grace_periods, factors, patience = st.integers(1, 30), st.floats(1.25, 10), st.none() | st.integers(1, 30)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5_000), st.integers(30, 300), grace_periods, factors, patience)
def test_the_numbers_are_in_order_and_within_what_can_happen(
    trials: int, epochs: int, grace_period: int, factor: float, patience: int | None
) -> None:
    rule = {"kind": "asha", "grace_period": grace_period, "reduction_factor": factor}
    found = trial_epochs(spec_of(trials, epochs, rule | {"patience": patience}))
    assert found.low <= found.expected <= found.high <= trials * epochs * (1 + 1e-9)
    least = grace_period * min(1.0, 1.0 if patience is None else (patience + 1) / epochs)
    assert found.low * (1 + 1e-9) >= trials * least


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 250), st.integers(30, 100), grace_periods, factors)
def test_one_more_trial_is_never_less_work(trials: int, epochs: int, grace_period: int, factor: float) -> None:
    rule = {"kind": "asha", "grace_period": grace_period, "reduction_factor": factor}
    one, other = (trial_epochs(spec_of(count, epochs, rule)) for count in (trials, trials + 1))
    assert one.low < other.low
    assert one.expected < other.expected
    assert one.high < other.high


@given(st.integers(1, 1_000), st.integers(1, 100))
def test_without_early_stopping_it_is_certain(trials: int, epochs: int) -> None:
    found = trial_epochs(spec_of(trials, epochs, {"kind": "none"}))
    assert found.low == found.expected == found.high == trials * epochs


@pytest.mark.parametrize(("factor", "grace_period"), [(2, 3), (3, 1), (4, 2)])
def test_the_simulated_rule_is_the_rule(factor: int, grace_period: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same trials, stopped by the rule itself."""
    monkeypatch.setattr(forecast, "LEAST_ERROR", 0.0)
    monkeypatch.setattr(forecast, "LARGEST_ERROR", 0.0)
    monkeypatch.setattr(forecast, "ROUNDS", 1)
    rule = {"kind": "asha", "grace_period": grace_period, "reduction_factor": factor, "ties": "continue"}
    spec = spec_of(60, 40, rule)
    generator, decider = random.Random(0), spec.early_stopping.rule(Comparison("validation_accuracy", 1, 40))
    generator.uniform(0, 0)
    trained = 0
    for trial in range(60):
        quality = generator.gauss(0, 1)
        for epoch in range(1, 41):
            trained += 1
            if epoch in spec.early_stopping.rungs(40):
                generator.gauss(0, 0)
            if epoch < 40 and decider.decide(trial, epoch, quality).action is Action.STOP:
                break
    assert trial_epochs(spec).expected == trained


def test_a_searcher_that_learns_stops_fewer_trials() -> None:
    random_search = spec_of(60, 50, {"kind": "asha"})
    tpe = spec_of(60, 50, {"kind": "asha"}, searcher={"kind": "tpe", "num_samples": 60})
    assert trial_epochs(tpe).expected > 1.1 * trial_epochs(random_search).expected


@pytest.mark.parametrize(("trials", "startup_trials", "learns"), [(12, None, False), (13, None, True), (12, 11, True)])
def test_the_default_learns_nothing_where_its_model_begins_after_the_last_trial(
    trials: int, startup_trials: int | None, learns: bool
) -> None:
    """Three domains, two of them rates within alternatives: the model begins after four trials for each."""
    rate = {"loguniform": [0.001, 0.1]}
    space = {"optimizer": {"choice": [{"kind": "sgd", "lr": rate}, {"kind": "adam", "lr": rate}]}}
    searcher = {"kind": "auto", "num_samples": trials, "startup_trials": startup_trials}
    found = trial_epochs(spec_of(trials, 50, {"kind": "asha"}, search_space=space, searcher=searcher))
    at_random = trial_epochs(spec_of(trials, 50, {"kind": "asha"}, search_space=space))
    assert (found.expected > at_random.expected, found == at_random) == (learns, not learns)


def test_a_space_with_fewer_configurations_has_fewer_trials() -> None:
    space = {"batch_size": {"choice": [32, 64, 128]}}
    document = {"name": "x", "search_space": space, "searcher": {"kind": "random", "num_samples": 50}}
    assert count_trials(ExperimentSpec.model_validate(document)) == 3
    document["searcher"] = {"kind": "grid"}
    assert count_trials(ExperimentSpec.model_validate(document)) == 3


def test_finalists_count_where_they_are_trained() -> None:
    without = trial_epochs(spec_of(40, 30, {"kind": "none"}))
    some = trial_epochs(spec_of(40, 30, {"kind": "none"}, finalists={"trials": 3, "seeds": 2}))
    assert some.expected - without.expected == 3 * 2 * 30
    dear = trial_epochs(spec_of(4, 30, {"kind": "none"}, finalists={"trials": 3, "seeds": 2, "max_share": 0.25}))
    assert dear.expected == 4 * 30


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_has_one_forecast(name: str) -> None:
    found = trial_epochs(presets.spec(name))
    assert 0 < found.low <= found.expected <= found.high
    assert found == trial_epochs(presets.spec(name))


def test_the_largest_search_takes_no_longer_than_others() -> None:
    began = time.process_time()
    trial_epochs(spec_of(100_000, 10_000, {"kind": "asha", "reduction_factor": 1.25}))
    assert time.process_time() - began < 3  # 0.2 s on an idle machine


def test_hours_are_those_of_the_epochs_and_of_the_starts() -> None:
    spec = spec_of(10, 30, {"kind": "none"})
    found = slot_hours(spec, trial_epochs(spec), Measured([6.0], overhead_s=60.0))
    assert found.low == found.expected == found.high == pytest.approx((10 * 30 * 6 + 10 * 60) / 3600)
    spread = slot_hours(spec, trial_epochs(spec), Measured([1.0, 2.0, 3.0, 6.0]))
    assert spread.low < spread.expected < spread.high


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.001, 1e4), min_size=1, max_size=20), st.floats(0, 100))
def test_hours_are_in_order_and_within_the_budget(epochs_s: list[float], overhead_s: float) -> None:
    limits = {"budget": {"slot_hours": 3, "gpu_hours": 1}, "resources": {"gpus_per_trial": 0.5}}
    spec = spec_of(20, 30, {"kind": "asha"}, **limits)
    found = slot_hours(spec, trial_epochs(spec), Measured(epochs_s, overhead_s))
    assert 0 < found.low <= found.expected <= found.high <= 2
