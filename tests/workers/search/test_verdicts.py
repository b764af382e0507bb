"""Verdicts: divergence, the last epoch and the stopping rule, in this order, and again after a crash."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from ray.tune.schedulers import TrialScheduler

from search_spaces.early_stopping.asha import Asha
from search_spaces.early_stopping.base import Action, Comparison, Decision, EarlyStoppingSpec, StoppingRule
from search_spaces.early_stopping.none import NoEarlyStopping
from search_spaces.objective import Objective
from search_spaces.protocol import TrialState
from workers.search.tune_scheduler import TuneScheduler
from workers.search.verdicts import CONTINUE, Verdict, Verdicts

OBJECTIVE = Objective()
ACCURACY = "validation_accuracy"


class Scripted(EarlyStoppingSpec):
    """Decides by epoch, and remembers what it was given."""

    kind: Literal["scripted"] = "scripted"
    actions: tuple[Action, ...]

    def rule(self, comparison: Comparison) -> StoppingRule:
        return ScriptedRule(self.actions)


class ScriptedRule:
    def __init__(self, actions: tuple[Action, ...]) -> None:
        self._actions = actions

    def decide(self, trial: int, epoch: int, value: float, loss: float | None = None) -> Decision:
        action = self._actions[epoch - 1]
        return Decision(action, "" if action is Action.CONTINUE else f"{action.value} after {epoch}")


def verdicts(*actions: Action, max_epochs: int = 9, history: Any = ()) -> Verdicts:
    return Verdicts(Scripted(actions=actions), OBJECTIVE, max_epochs, history)


def test_the_rule_stops_a_trial_early() -> None:
    found = verdicts(Action.CONTINUE, Action.STOP)
    assert found.after_epoch(0, 1, {ACCURACY: 0.5}) == CONTINUE
    assert found.after_epoch(0, 2, {ACCURACY: 0.5}) == Verdict(Action.STOP, TrialState.EARLY_STOPPED, "stop after 2")


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({ACCURACY: math.nan}, "validation_accuracy is not finite (nan) after epoch 1"),
        ({ACCURACY: -math.inf}, "validation_accuracy is not finite (-inf) after epoch 1"),
        ({ACCURACY: None}, "validation_accuracy was not reported after epoch 1"),
        ({}, "validation_accuracy was not reported after epoch 1"),
        ({ACCURACY: 0.9, "diverged": True}, "the loss is not finite in epoch 1"),
    ],
)
def test_a_diverged_trial_ends_whatever_the_rule_decides(metrics: Any, reason: str) -> None:
    verdict = verdicts(Action.CONTINUE).after_epoch(0, 1, metrics)
    assert verdict == Verdict(Action.STOP, TrialState.DIVERGED, reason)


def test_the_last_epoch_completes_a_trial_whatever_the_rule_decides() -> None:
    verdict = verdicts(Action.STOP, max_epochs=1).after_epoch(0, 1, {ACCURACY: 0.1})
    assert verdict == Verdict(Action.STOP, TrialState.COMPLETED, "the only epoch is done")


def test_the_rule_is_given_the_validation_loss_also_of_the_journal() -> None:
    for journaled in (0, 1, 2):
        tied = [(0, 1, 0.5, 1.0), (1, 1, 0.5, 2.0)]
        found = Verdicts(Asha(), OBJECTIVE, 9, tied[:journaled])
        for trial, epoch, value, loss in tied[journaled:]:
            found.after_epoch(trial, epoch, {ACCURACY: value, "validation_loss": loss})
        # The cutoff of the best third is two thirds of the way from the loss 2 to the loss 1.
        assert found.after_epoch(2, 1, {ACCURACY: 0.5, "validation_loss": 1.3}).state is None
        # Now it is one third of the way from 1.3 to 1.
        assert "1.4000 is above 1.2000" in found.after_epoch(3, 1, {ACCURACY: 0.5, "validation_loss": 1.4}).reason
        assert found.after_epoch(4, 1, {ACCURACY: 0.5, "validation_loss": math.nan}).state is None
        assert found.after_epoch(5, 1, {ACCURACY: 0.5}).state is None


def test_an_epoch_that_is_reported_again_continues() -> None:
    found = verdicts(Action.STOP, Action.STOP)
    assert found.after_epoch(0, 1, {ACCURACY: 0.5}).action is Action.STOP
    assert found.after_epoch(0, 1, {ACCURACY: 0.5}) == CONTINUE
    assert found.after_epoch(0, 2, {ACCURACY: 0.5}).action is Action.STOP


def test_the_rule_pauses_a_trial() -> None:
    assert verdicts(Action.PAUSE).after_epoch(3, 1, {ACCURACY: 0.5}) == Verdict(Action.PAUSE, None, "pause after 1")


def test_the_rule_counts_a_diverged_trial_of_the_journal() -> None:
    spec = Asha()
    found = Verdicts(spec, OBJECTIVE, 9, [(0, 1, 0.5, None), (1, 1, math.nan, None)])
    assert "of 2 earlier trials" in found.after_epoch(2, 1, {ACCURACY: 0.1}).reason


def test_the_rule_and_its_patience_see_every_epoch_and_each_may_stop_a_trial() -> None:
    found = Verdicts(Asha(grace_period=3, patience=2), OBJECTIVE, 9)
    for epoch, value in enumerate((0.5, 0.6, 0.7), start=1):
        assert found.after_epoch(0, epoch, {ACCURACY: value}) == CONTINUE
    impatient = [found.after_epoch(1, epoch, {ACCURACY: 0.8}) for epoch in (1, 2, 3)]
    assert impatient[:2] == [CONTINUE] * 2
    reason = "no improvement for 2 epochs: validation_accuracy was 0.8000 at epoch 1"
    assert impatient[2] == Verdict(Action.STOP, TrialState.EARLY_STOPPED, reason)
    for epoch in (1, 2):
        found.after_epoch(2, epoch, {ACCURACY: 0.1})
    # Both stop it: the rung comes first, and counts the trial that ran out of patience at it.
    assert "the cutoff for the best 1/3 of 2 earlier trials" in found.after_epoch(2, 3, {ACCURACY: 0.1}).reason


def test_patience_is_the_only_rule_of_a_search_that_compares_no_trials() -> None:
    found = Verdicts(NoEarlyStopping(patience=1), OBJECTIVE, 3)
    assert found.after_epoch(0, 1, {ACCURACY: 0.5}) == CONTINUE
    assert found.after_epoch(0, 2, {ACCURACY: 0.5}).state is TrialState.EARLY_STOPPED
    assert found.after_epoch(1, 1, {ACCURACY: 0.1}) == CONTINUE
    assert found.after_epoch(1, 2, {ACCURACY: 0.2}) == CONTINUE
    assert found.after_epoch(1, 3, {ACCURACY: 0.2}).state is TrialState.COMPLETED
    with_a_pause = Verdicts(Scripted(actions=(Action.PAUSE,) * 3, patience=1), OBJECTIVE, 9)
    assert with_a_pause.after_epoch(0, 1, {ACCURACY: 0.5}).action is Action.PAUSE
    assert with_a_pause.after_epoch(0, 2, {ACCURACY: 0.5}).state is TrialState.EARLY_STOPPED


@pytest.mark.parametrize(
    ("action", "yields", "answer"),
    [
        (Action.CONTINUE, False, TrialScheduler.CONTINUE),
        (Action.CONTINUE, True, TrialScheduler.STOP),
        (Action.STOP, False, TrialScheduler.STOP),
    ],
)
def test_tune_is_told_to_stop_a_trial_that_ends_or_yields_its_slot(action: Action, yields: bool, answer: str) -> None:
    asked: list[int] = []

    def yields_slot(number: int, verdict: Verdict) -> bool:
        asked.append(number)
        return yields

    scheduler = TuneScheduler(verdicts(action), lambda controller: None, yields_slot)
    trial = SimpleNamespace(config={"trial": 7})
    assert scheduler.on_trial_result(None, trial, {"epoch": 1, ACCURACY: 0.5}) == answer
    assert asked == ([] if action is Action.STOP else [7])
    assert scheduler.newest[7].action is action


def test_tune_polls_at_each_step_of_its_loop() -> None:
    polled: list[Any] = []
    scheduler = TuneScheduler(verdicts(), polled.append, lambda number, verdict: False)
    controller: Any = SimpleNamespace(get_trials=list)
    assert scheduler.choose_trial_to_run(controller) is None
    assert polled == [controller]
