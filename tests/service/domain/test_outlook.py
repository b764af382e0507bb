"""Whether work is left, decided from facts only."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search_spaces.controls import Controls
from search_spaces.objective import Objective
from service.domain.outlook import Facts, outlook

DONE = Facts(
    controls=Controls(num_samples=10),
    objective=Objective(),
    exhaustive=False,
    started=10,
    best_trial=3,
    best_value=0.9,
    evaluated_trial=3,
)
LOSS = Objective(metric="validation_loss", mode="min")


@pytest.mark.parametrize(
    ("facts", "obstacle"),
    [
        (DONE, "all 10 trials have run; increase num_samples to continue"),
        (replace(DONE, started=9), ""),
        (replace(DONE, started=12), "all 12 trials have run; increase num_samples to continue"),
        (replace(DONE, started=9, configurations=9.0), "all 9 configurations of the search space have run; `rung cont"),
        (replace(DONE, started=9, configurations=10.0), ""),
        (replace(DONE, evaluated_trial=None), ""),
        (replace(DONE, evaluated_trial=2), ""),
        (replace(DONE, best_trial=None, best_value=None, evaluated_trial=None, started=0), ""),
        (replace(DONE, best_trial=None, best_value=None, evaluated_trial=None), "all 10 trials have run"),
    ],
)
def test_work_is_left_while_trials_or_the_evaluation_of_the_best_are(facts: Facts, obstacle: str) -> None:
    found = outlook(facts)
    assert found.work_left == (obstacle == "")
    assert found.obstacle.startswith(obstacle)


@pytest.mark.parametrize(
    ("objective", "goal", "obstacle"),
    [
        (Objective(), 0.9, "its goal of 0.9 is reached; increase or remove it to continue"),
        (Objective(), 0.91, ""),
        (LOSS, 0.9, "its goal of 0.9 is reached; lower or remove it to continue"),
        (LOSS, 0.89, ""),
    ],
)
def test_a_reached_goal_leaves_no_work_though_trials_are_left(objective: Objective, goal: float, obstacle: str) -> None:
    facts = replace(DONE, started=2, objective=objective).under(Controls(num_samples=10, goal=goal))
    assert outlook(facts).obstacle == obstacle
