"""Divergence: where it is expected, from how little, and at what cost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from search_spaces.experiment import SearchSpace
from search_spaces.searchers.base import Finding, TrialResult
from search_spaces.searchers.gp import divergence
from search_spaces.searchers.gp.divergence import LEAST, MOST, Divergence
from search_spaces.searchers.gp.encoding import Encoding
from search_spaces.searchers.gp.process import fit

SPACE = SearchSpace.model_validate(
    {
        "optimizer": {
            "choice": [
                {"kind": "sgd", "lr": {"loguniform": [1e-4, 10.0]}, "momentum": {"uniform": [0.0, 0.9]}},
                {"kind": "adam", "lr": {"loguniform": [1e-5, 1e-1]}},
            ]
        },
        "batch_size": {"choice": [32, 64, 128]},
        "label_smoothing": {"uniform": [0.0, 0.3]},
    }
)
EDGE = 0.3


def diverges(sample: dict[str, float]) -> bool:
    return sample.get("optimizer[0].lr", 0.0) > EDGE


def informed(encoding: Encoding, count: int) -> Divergence:
    """After so many random trials, of which those of SGD with a high rate diverged."""
    found, generator = Divergence(encoding.groups), np.random.default_rng(0)
    for number in range(count):
        sample = encoding.draw(generator)
        found.replay(number, encoding.encode(sample))
        curve = (math.nan,) if diverges(sample) else (0.5,)
        found.report(number, 1, curve[0])
        finding = Finding.DIVERGED if diverges(sample) else Finding.EARLY_STOPPED
        found.observe(TrialResult(number, finding, curve, None))
    return found


def test_it_is_expected_behind_the_edge_only() -> None:
    encoding, generator = Encoding(SPACE), np.random.default_rng(1)
    outcomes = informed(encoding, 60).fitted()
    assert outcomes is not None
    samples = [encoding.draw(generator) for _ in range(400)]
    found = outcomes.probability(np.stack([encoding.encode(sample) for sample in samples]))
    expected = np.array([diverges(sample) for sample in samples])
    assert ((found > 0.5) == expected).mean() > 0.93
    assert found[expected].mean() > 0.7
    assert found[~expected].mean() < 0.1
    assert ((found >= 0) & (found < 1)).all()


def test_nothing_is_expected_before_some_trials_diverged() -> None:
    encoding = Encoding(SPACE)
    found, vector = Divergence(encoding.groups), encoding.encode(encoding.draw(np.random.default_rng(0)))
    for number in range(LEAST + 1):
        found.replay(number, vector)
        assert found.fitted() is None
        found.observe(TrialResult(number, Finding.DIVERGED, (math.nan,), None))
    assert found.fitted() is None, "no trial that trained is known"
    found.replay(9, vector)
    found.report(9, 1, 0.5)
    assert found.fitted() is not None, "one that still runs trains"


def test_a_trial_that_diverges_later_counts_as_diverged() -> None:
    encoding = Encoding(SPACE)
    found, generator = Divergence(encoding.groups), np.random.default_rng(0)
    for number in range(8):
        found.replay(number, encoding.encode(encoding.draw(generator)))
        found.report(number, 1, 0.5)
    for number in range(LEAST):
        found.report(number, 2, math.nan)
        found.observe(TrialResult(number, Finding.DIVERGED, (0.5, math.nan), 0.5))
    assert found.fitted() is not None


def test_the_process_is_fitted_to_a_bounded_number_of_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[int] = []

    def counted(points: Any, *rest: Any) -> Any:
        fitted.append(len(points))
        return fit(points, *rest)

    monkeypatch.setattr(divergence, "fit", counted)
    assert informed(Encoding(SPACE), 1_000).fitted() is not None
    assert fitted == [2 * MOST]
