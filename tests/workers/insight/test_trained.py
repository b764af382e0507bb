"""A path that was trained: its steps are those of the spec, and their intervals contain what was planted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import TrialState
from search_spaces.replicates import replicate_number
from search_spaces.searchers.initial import initial_sample
from workers.insight.evidence import Evidence
from workers.insight.trained import trained_path
from workers.state.fresh_seeds import Won
from workers.state.trial_table import Trial

POINTS = [
    {"optimizer": {"kind": "adam", "lr": 0.001}, "batch_size": 64},
    {"optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.9}, "batch_size": 64},
    {"optimizer": {"kind": "sgd", "lr": 0.1, "momentum": 0.9}, "batch_size": 256},
]
SPACE = {
    "optimizer": {
        "choice": [
            {"kind": "adam", "lr": {"loguniform": [1e-4, 1e-1]}},
            {"kind": "sgd", "lr": {"loguniform": [1e-3, 1]}, "momentum": {"uniform": [0, 0.99]}},
        ]
    },
    "batch_size": {"choice": [64, 256]},
}


def spec_of(**changes: Any) -> ExperimentSpec:
    """What `rung insight ID --path` prints is of this kind."""
    return ExperimentSpec.model_validate(
        {
            "name": "x-path",
            "search_space": SPACE,
            "searcher": {"kind": "random", "num_samples": len(POINTS), "initial": POINTS},
            "early_stopping": "none",
            "finalists": {"trials": len(POINTS), "seeds": 2},
        }
        | changes
    )


def evidence_of(spec: ExperimentSpec, values: Mapping[int, Sequence[float | None]]) -> Evidence:
    """Of each trial the value of itself, then of its runs with fresh seeds; None for a run that diverged."""
    every: dict[int, Trial] = {}
    replicates: dict[int, Trial] = {}
    for number, found in values.items():
        sample = initial_sample(spec.search_space, POINTS[number])
        own = Trial(number, sample, spec.parameters(spec.bind(sample, number)))
        for index, value in enumerate(found):
            state = TrialState.DIVERGED if value is None else TrialState.COMPLETED
            run = replace(own, state=state, best_value=value)
            if index:
                replicates[replicate_number(number, index - 1)] = run
            else:
                every[number] = run
    return Evidence(spec, Won(every[0], every[0]), 0, list(every.values()), every, replicates, {}, {}, None, None)


VALUES = {0: [0.80, 0.82, 0.81], 1: [0.90, 0.92, 0.91], 2: [0.91, 0.90, 0.92]}


def test_each_trial_says_what_its_change_gained() -> None:
    first, second, third = trained_path(evidence_of(spec_of(), VALUES))
    assert (first.trial, first.names, first.values, first.gain) == (0, [], VALUES[0], None)
    assert first.mean == pytest.approx(0.81)
    assert second.names == ["optimizer.kind", "optimizer.lr", "optimizer.momentum"]
    assert third.names == ["batch_size"]
    assert second.gain is not None
    assert third.gain is not None
    # By hand: sd 0.01 with 6 degrees of freedom, t 2.4469, times the root of 2/3.
    assert (second.gain.value, second.gain.low, second.gain.high) == pytest.approx((0.1, 0.08002, 0.11998), abs=1e-5)
    assert third.gain.low < 0 < third.gain.high


def test_of_an_objective_that_is_minimized_less_is_a_gain() -> None:
    spec = spec_of(objective={"metric": "validation_loss"})
    _, second, _ = trained_path(evidence_of(spec, {0: [0.5, 0.5, 0.6], 1: [0.3, 0.3, 0.4], 2: [0.3, 0.3, 0.4]}))
    assert second.gain is not None
    assert second.gain.value == pytest.approx(0.2)


def test_a_configuration_without_a_run_that_completed_has_no_gain_nor_has_the_next() -> None:
    _, second, third = trained_path(evidence_of(spec_of(), VALUES | {1: [None, None, None]}))
    assert (second.values, second.mean, second.gain, third.gain) == ([], None, None, None)
    alone = {number: found[:1] for number, found in VALUES.items()}
    assert [step.gain for step in trained_path(evidence_of(spec_of(), alone))] == [None] * 3, "nothing tells the spread"


@pytest.mark.parametrize(
    "changes",
    [
        {"finalists": {"trials": 2, "seeds": 2}},
        {"searcher": {"kind": "random", "num_samples": 4, "initial": POINTS}},
        {"searcher": {"kind": "random", "num_samples": 3, "initial": POINTS[:2]}},
        {"searcher": {"kind": "grid"}},
    ],
)
def test_another_experiment_has_none(changes: dict[str, Any]) -> None:
    spec = spec_of(**changes)
    assert trained_path(evidence_of(spec, VALUES)) == []


def test_the_intervals_contain_what_was_planted() -> None:
    random = np.random.default_rng(3)
    gains, inside = (0.03, -0.002), []
    for _ in range(300):
        true = np.cumsum((0.8, *gains))
        drawn = true[:, None] + random.normal(0, 0.01, (3, 3))
        found = trained_path(
            evidence_of(spec_of(), {number: list(map(float, one)) for number, one in enumerate(drawn)})
        )
        for step, gain in zip(found[1:], gains, strict=True):
            assert step.gain is not None
            inside.append(step.gain.low <= gain <= step.gain.high)
    assert 0.92 <= np.mean(inside) <= 0.98
