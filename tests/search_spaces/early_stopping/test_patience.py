"""Patience stops a trial that no longer improves on itself, whatever other trials do."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest

from search_spaces.early_stopping.base import CONTINUE, Action, Comparison, EarlyStoppingSpec, StoppingRule
from search_spaces.early_stopping.none import NoEarlyStopping
from search_spaces.early_stopping.patience import PatienceRule
from tests.support.contracts.stopping_rule import MAX_EPOCHS, StoppingRuleContract

ACCURACY = Comparison("validation_accuracy", 1, 99)
LOSS = Comparison("validation_loss", -1, 99)


class TestPatience(StoppingRuleContract):
    @pytest.fixture(params=[(1, 0.0), (2, 0.1), (3, 0.0)], ids=str)
    def early_stopping(self, request: pytest.FixtureRequest) -> EarlyStoppingSpec:
        patience, min_delta = request.param
        return NoEarlyStopping(patience=patience, min_delta=min_delta)

    @staticmethod
    def rule(early_stopping: EarlyStoppingSpec, sign: int = 1) -> StoppingRule:
        assert early_stopping.patience is not None
        comparison = Comparison("validation_accuracy", sign, MAX_EPOCHS)
        return PatienceRule(early_stopping.patience, early_stopping.min_delta, comparison)


def stopped(rule: StoppingRule, values: Iterable[float], trial: int = 0) -> tuple[int, str] | None:
    """The epoch after which a trial with these values is stopped, and why."""
    for epoch, value in enumerate(values, start=1):
        decision = rule.decide(trial, epoch, value)
        if decision.action is Action.STOP:
            return epoch, decision.reason
    return None


@pytest.mark.parametrize(
    ("comparison", "min_delta", "values", "expected"),
    [
        (ACCURACY, 0, (0.5, 0.6, 0.6, 0.6), (4, "2 epochs: validation_accuracy was 0.6000 at epoch 2")),
        (ACCURACY, 0, (0.5, 0.4, 0.3), (3, "2 epochs: validation_accuracy was 0.5000 at epoch 1")),
        (ACCURACY, 0, (0.5, 0.4, 0.51, 0.5, 0.52, 0.1), None),
        (LOSS, 0, (1.0, 0.9, 1.1, 0.9), (4, "2 epochs: validation_loss was 0.9000 at epoch 2")),
        # Each gain is less than 0.1. The third epoch is 0.1 better than the first, so that it is one.
        (ACCURACY, 0.1, (0.2, 0.25, 0.3, 0.35, 0.4, 0.45), None),
        (ACCURACY, 0.1, (0.2, 0.25, 0.29), (3, "of at least 0.1 for 2 epochs: validation_accuracy was 0.2000")),
        (LOSS, 0.1, (1.0, 0.95, 0.91), (3, "of at least 0.1 for 2 epochs: validation_loss was 1.0000 at epoch 1")),
    ],
)
def test_a_trial_is_stopped_two_epochs_after_its_newest_improvement(
    comparison: Comparison, min_delta: float, values: tuple[float, ...], expected: tuple[int, str] | None
) -> None:
    found = stopped(PatienceRule(2, min_delta, comparison), values)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        epoch, reason = expected
        assert found[0] == epoch
        assert found[1].startswith("no improvement")
        assert reason in found[1]


def test_one_epoch_without_an_improvement_is_enough_for_a_patience_of_one() -> None:
    found = stopped(PatienceRule(1, 0, ACCURACY), (0.5, 0.5))
    assert found == (2, "no improvement for 1 epoch: validation_accuracy was 0.5000 at epoch 1")


def test_other_trials_and_diverged_epochs_change_nothing() -> None:
    rule = PatienceRule(2, 0, ACCURACY)
    assert rule.decide(0, 1, 0.5) == CONTINUE
    assert rule.decide(1, 1, math.nan) == CONTINUE
    assert stopped(rule, (0.9, 0.8, 0.7), trial=2) == (
        3,
        "no improvement for 2 epochs: validation_accuracy was 0.9000 at epoch 1",
    )
    assert rule.decide(0, 2, 0.6) == CONTINUE
