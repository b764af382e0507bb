"""What every stopping rule promises, whatever it decides."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest

from search_spaces.early_stopping.base import Action, Comparison, Decision, EarlyStoppingSpec, StoppingRule

TRIALS = 12
MAX_EPOCHS = 9
#: Trial, epoch, value and validation loss.
Report = tuple[int, int, float, float | None]


def reports(seed: int, sign: int = 1) -> Iterator[Report]:
    """Epochs of trials that run at the same time, in a random order. Every sixth value is NaN; many are equal."""
    draw = random.Random(seed)
    epochs = dict.fromkeys(range(TRIALS), 0)
    while epochs:
        trial = draw.choice(list(epochs))
        epochs[trial] += 1
        value = math.nan if draw.random() < 1 / 6 else sign * draw.choice([0.25, 0.5, draw.random()])
        yield trial, epochs[trial], value, draw.choice([None, 0.5, draw.random()])
        if math.isnan(value) or epochs[trial] == MAX_EPOCHS - 1:
            del epochs[trial]


def decided(rule: StoppingRule, seed: int, sign: int = 1) -> list[tuple[Report, Decision]]:
    """The decisions on the reports, without those of trials that had been stopped."""
    stopped: set[int] = set()
    decisions = []
    for report in reports(seed, sign):
        if report[0] not in stopped:
            decision = rule.decide(*report)
            decisions.append((report, decision))
            if decision.action is Action.STOP:
                stopped.add(report[0])
    return decisions


@pytest.mark.parametrize("seed", range(5))
class StoppingRuleContract:
    """An implementation gives the fixture `early_stopping`: its spec, with the fields to test."""

    @staticmethod
    def rule(early_stopping: EarlyStoppingSpec, sign: int = 1) -> StoppingRule:
        return early_stopping.rule(Comparison("validation_accuracy", sign, MAX_EPOCHS))

    def test_a_rule_that_replays_any_part_of_the_journal_decides_the_rest_as_before(
        self, early_stopping: EarlyStoppingSpec, seed: int
    ) -> None:
        expected = decided(self.rule(early_stopping), seed)
        for crash in range(0, len(expected), 7):
            after = self.rule(early_stopping)
            for report, _ in expected[:crash]:
                after.decide(*report)
            assert [(report, after.decide(*report)) for report, _ in expected[crash:]] == expected[crash:]

    def test_a_trial_that_does_not_continue_has_a_reason_in_one_line(
        self, early_stopping: EarlyStoppingSpec, seed: int
    ) -> None:
        for (_, _, value, _), decision in decided(self.rule(early_stopping), seed):
            if not math.isnan(value):
                assert bool(decision.reason) == (decision.action is not Action.CONTINUE)
                assert "\n" not in decision.reason
                assert "nan" not in decision.reason

    def test_the_mode_of_the_objective_makes_no_difference(self, early_stopping: EarlyStoppingSpec, seed: int) -> None:
        larger = decided(self.rule(early_stopping), seed)
        smaller = decided(self.rule(early_stopping, sign=-1), seed, sign=-1)
        assert [decision.action for _, decision in larger] == [decision.action for _, decision in smaller]
