"""The path from one configuration to another, on functions whose truth is known without noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from search_spaces.sampling import Sample
from workers.insight.ablation import Rate, steps

TERMS = {"rate": 0.15, "width": 0.08, "dropout": -0.02, "smoothing": 0.01}


def exactly(function: Callable[[Sample], float]) -> Rate:
    return lambda samples: np.array([[function(sample) for sample in samples]])


def test_the_gains_of_independent_hyperparameters_are_their_terms_the_largest_first() -> None:
    rate = exactly(lambda sample: 0.7 + sum(TERMS[name] * value for name, value in sample.items()))
    made = list(steps(dict.fromkeys(TERMS, 0.0), dict.fromkeys(TERMS, 1.0), rate))
    assert [step.path for step in made] == ["rate", "width", "smoothing", "dropout"]
    assert {step.path: float(step.gains[0]) for step in made} == pytest.approx(TERMS, abs=1e-6)
    assert made[-1].sample == dict.fromkeys(TERMS, 1.0)


def test_of_two_that_help_only_together_both_are_changed_before_the_gain() -> None:
    def together(sample: Sample) -> float:
        return 0.9 if sample["depth"] == sample["rate"] == 1 else 0.6 - 0.1 * (sample["depth"] != sample["rate"])

    made = list(steps({"depth": 0, "rate": 0}, {"depth": 1, "rate": 1}, exactly(together)))
    assert [float(step.gains[0]) for step in made] == pytest.approx([-0.1, 0.4], abs=1e-6)


def test_another_alternative_brings_its_values_along_and_what_is_equal_is_no_step() -> None:
    start = {"optimizer": 1, "optimizer[1].beta": 0.9, "batch": 2, "width": 8}
    end = {"optimizer": 0, "optimizer[0].rate": 0.3, "batch": 2, "width": 16}
    made = list(steps(start, end, exactly(lambda sample: 1.0 * ("optimizer[0].rate" in sample))))
    assert [step.path for step in made] == ["optimizer", "width"]
    assert made[0].sample == {"optimizer": 0, "optimizer[0].rate": 0.3, "batch": 2, "width": 8}
    assert made[1].sample == end
