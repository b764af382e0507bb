"""What planted curves show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from search_spaces.protocol import TrialState
from search_spaces.schedulers import Cosine, Exponential, OneCycle, Plateau, SchedulerSpec, WarmRestarts
from workers.insight.curves import findings
from workers.insight.fading import last_learning_epoch

EPOCHS = np.arange(1, 21)
RISING = 0.95 - 0.6 * np.exp(-EPOCHS / 3)


def curve(
    accuracy: Sequence[float] = RISING.tolist(), loss: Sequence[float] = np.exp(-EPOCHS / 4).tolist(), gap: float = 0.01
) -> list[dict[str, float]]:
    return [
        {"validation_accuracy": a, "validation_loss": b, "generalization_gap": gap, "nonfinite_steps": 0.0, "lr": 0.1}
        for a, b in zip(accuracy, loss, strict=True)
    ]


def kinds(
    epochs: list[dict[str, float]], state: TrialState = TrialState.COMPLETED, scheduler: str = "constant"
) -> list[str]:
    return [finding.kind for finding in findings(epochs, state, scheduler, classes=10)]


def test_a_curve_that_levels_off_shows_nothing() -> None:
    assert kinds(curve()) == []


def test_too_few_epochs_show_nothing() -> None:
    assert kinds(curve()[:4]) == []


def test_overfitting_is_a_loss_that_rises_while_training_is_ahead() -> None:
    losses = (1 - 0.05 * EPOCHS).tolist()[:10] + (0.5 + 0.03 * EPOCHS).tolist()[:10]
    [found] = findings(curve(loss=losses, gap=0.08), TrialState.COMPLETED, "constant", 10)
    assert found.kind == "overfitting"
    assert (found.figures["lowest_epoch"], found.figures["generalization_gap"]) == (10, 0.08)
    assert "overfitting" not in kinds(curve(loss=losses, gap=0.0)), "the loss rises, but training is not ahead"


def test_underfitting_is_a_low_training_accuracy_without_a_gap() -> None:
    low = (RISING - 0.2).tolist()
    [found] = findings(curve(accuracy=low, gap=0.005), TrialState.COMPLETED, "constant", 10)
    assert found.kind == "underfitting"
    assert found.figures["train_accuracy"] == pytest.approx(low[-1] + 0.005)
    assert kinds(curve(accuracy=low, gap=0.2)) == []
    assert kinds(curve(accuracy=low, gap=0.005), TrialState.EARLY_STOPPED) == [], "it had no time"


@pytest.mark.parametrize(
    ("state", "scheduler", "shown"),
    [
        (TrialState.COMPLETED, "constant", ["improving"]),
        (TrialState.COMPLETED, "cosine", []),
        (TrialState.EARLY_STOPPED, "constant", []),
    ],
)
def test_a_curve_still_improves_unless_its_schedule_makes_it_rise(
    state: TrialState, scheduler: str, shown: list[str]
) -> None:
    line = np.linspace(0.7, 0.97, 20).tolist()
    assert kinds(curve(accuracy=line), state, scheduler) == shown


def test_no_more_epochs_are_advised_where_the_schedule_ended_learning() -> None:
    line = np.linspace(0.7, 0.9, 20).tolist()
    advised = findings(curve(accuracy=line, gap=0.005), TrialState.COMPLETED, "exponential", 10)
    assert [one.kind for one in advised] == ["underfitting", "improving"]
    assert all("more epochs may help" in one.text for one in advised)
    faded, low = findings(curve(accuracy=line, gap=0.005), TrialState.COMPLETED, "exponential", 10, 3)
    assert (faded.kind, faded.figures) == ("faded", {"epoch": 3, "epochs": 20})
    assert "ended learning at epoch 3: in the 17 epochs after it" in faded.text
    assert (low.kind, "more epochs" in low.text) == ("underfitting", False)


def test_a_schedule_ended_learning_where_a_fifth_of_the_epochs_came_after_it() -> None:
    def of(last: int, accuracy: Sequence[float] = RISING.tolist(), state: TrialState = TrialState.COMPLETED) -> Any:
        return [one.kind for one in findings(curve(accuracy=accuracy), state, "cosine", 10, last)]

    assert (of(16), of(17), of(20)) == (["faded"], [], [])
    assert of(3, accuracy=[0.1] * 20) == ["stuck", "faded"]
    assert of(3, state=TrialState.EARLY_STOPPED) == ["faded"]


@pytest.mark.parametrize(
    ("scheduler", "last"),
    [
        (Exponential(gamma=1e-10), 1),
        (Exponential(gamma=1e-10, warmup_epochs=2.5), 4),
        (WarmRestarts(t_0=1.0), None),
        (WarmRestarts(t_0=1.5, peak_decay=1e-4), 2),
        (Cosine(), 20),
        (Cosine(t_max=4), 4),
        (OneCycle(div_factor=1e9), None),
    ],
)
def test_the_last_epoch_in_which_a_schedule_lets_a_trial_learn(scheduler: SchedulerSpec, last: int | None) -> None:
    """Whatever the rate of the last batch of each epoch is."""
    assert last_learning_epoch(scheduler, 20, [{"lr": 1e-9}] * 20) == last


def test_the_last_epoch_before_a_plateau_reduced_the_rate_to_nothing() -> None:
    def of(*rates: float) -> int | None:
        return last_learning_epoch(Plateau(), len(rates), [{"lr": rate} for rate in rates])

    assert of(0.01, 0.1, 0.1, 0.02, 1e-5, 1e-5, 1e-5) == 4
    assert of(0.1, 0.1, 0.02, 0.004) == 4
    assert last_learning_epoch(Plateau(), 2, [{"lr": 0.1}, {}]) is None, "an older version wrote none"


def test_a_curve_that_falls_again_and_again_is_unstable() -> None:
    jumping = [value - (0.2 if epoch % 3 == 0 else 0) for epoch, value in enumerate(RISING.tolist())]
    [found] = findings(curve(accuracy=jumping), TrialState.COMPLETED, "cosine", 10)
    assert found.kind == "unstable"
    assert found.figures["drops"] == 6
    assert 0.1 < found.figures["largest"] <= 0.2


def test_a_trial_that_learns_nothing_is_stuck() -> None:
    assert kinds(curve(accuracy=[0.1] * 20)) == ["stuck"]


@pytest.mark.parametrize(("classes", "best", "stuck"), [(2, 0.52, True), (2, 0.7, False), (3, 0.45, False)])
def test_with_few_classes_guessing_is_often_right(classes: int, best: float, stuck: bool) -> None:
    found = findings(curve(accuracy=[best] * 20), TrialState.COMPLETED, "constant", classes)
    assert ([one.kind for one in found] == ["stuck"]) == stuck


def test_steps_that_float16_skips_are_no_divergence() -> None:
    epochs = curve()
    epochs[0] |= {"nonfinite_steps": 0.1}
    assert kinds(epochs) == []


def test_a_trial_that_diverged_names_its_epoch_and_rate() -> None:
    epochs = curve()[:7]
    epochs[6] |= {"nonfinite_steps": 0.5, "validation_loss": float("nan"), "lr": 3.0}
    [found] = findings(epochs, TrialState.DIVERGED)
    assert (found.kind, found.figures) == ("diverged", {"epoch": 7, "lr": 3.0})
