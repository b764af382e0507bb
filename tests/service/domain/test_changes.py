"""Changes of the controls of an experiment, in every state that allows or refuses them."""

from __future__ import annotations

from typing import Any

import pytest

from service.context import AppContext
from service.store.models import Experiment
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)
TEN = {
    "searcher": {"kind": "random", "num_samples": 10},
    "search_space": {"label_smoothing": {"uniform": [0.0, 0.1]}},
}


def url(experiment_id: str, *more: object) -> str:
    return "/".join(["/api/v1/experiments", experiment_id, *map(str, more)])


def test_a_running_experiment_receives_changed_controls(world: World) -> None:
    one = world.started(budget={"gpu_hours": 3, "wall_clock": "2h"}, objective={"goal": 0.9}, **TEN)
    answer = world.patch(one, num_samples=40, budget={"gpu_hours": None, "slot_hours": 5}, goal=None, priority=7)
    assert answer.status_code == 200
    controls = answer.json()["controls"]
    assert (controls["num_samples"], controls["goal"], controls["priority"]) == (40, None, 7)
    assert {name: value for name, value in controls["budget"].items() if value} == {"slot_hours": 5, "wall_clock": 7200}
    assert answer.json()["spec"]["searcher"]["num_samples"] == 10, "the spec stays as it was accepted"
    assert world.beat(one, {"phase": "searching"}).json()["controls"] == controls
    assert world.patch(one, priority=7).json()["revision"] == answer.json()["revision"], "nothing changed"


def test_a_queued_experiment_is_launched_with_changed_controls(world: World) -> None:
    one = world.submit(resources={"gpus_per_trial": 0}, **TEN)
    world.patch(one, max_concurrent_trials=2, budget=None, max_restarts=1)
    world.reconciler.reconcile_once()
    launch = world.launcher.launches[f"exp-{one}-a1"]
    assert (launch.slots, launch.controls.max_concurrent_trials, launch.controls.max_restarts) == (2, 2, 1)


def test_num_samples_must_not_be_less_than_the_started_trials(world: World) -> None:
    one = world.started(**TEN)
    world.beat(one, {"phase": "searching", "trials": [world.line(n) for n in range(4)]})
    refused = world.patch(one, num_samples=3)
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert (error["field"], error["value"]) == ("num_samples", 3)
    assert error["rule"] == "must be at least 4, the number of trials that have started"
    assert world.patch(one, num_samples=4).status_code == 200


def test_num_samples_of_a_grid_must_not_exceed_its_combinations(world: World) -> None:
    grid = {"kind": "grid", "num_samples": 2}
    one = world.submit(searcher=grid, search_space={"batch_size": {"choice": [32, 64, 128]}})
    refused = world.patch(one, num_samples=4)
    assert refused.json()["errors"][0]["rule"] == "must be at most 3, the number of combinations of the grid"
    assert world.patch(one, num_samples=3).status_code == 200


def test_num_samples_has_no_default(world: World) -> None:
    refused = world.patch(world.submit(**TEN), num_samples=None, max_restarts=None)
    (error,) = refused.json()["errors"]
    assert (error["field"], error["rule"]) == ("num_samples", "must be a value, not null, because it has no default")


def test_a_space_that_was_tried_as_a_whole_needs_no_more_samples(world: World) -> None:
    three = {
        "search_space": {"batch_size": {"choice": [32, 64, 128]}},
        "searcher": {"kind": "random", "num_samples": 4},
    }
    one = world.ended(done=3, **three)
    view = world.patch(one, num_samples=10).json()
    assert view["state"] == "COMPLETED"
    assert view["warnings"][-1] == (
        "num_samples changed, but the experiment stays completed: all 3 configurations of the search space have run; "
        "`rung continue` starts a new experiment with a wider one"
    )


def test_every_problem_of_a_patch_is_reported(world: World) -> None:
    one = world.started(**TEN)
    world.beat(one, {"phase": "searching", "trials": [world.line(n) for n in range(4)]})
    refused = world.patch(one, priority=1000, goal=95, num_samples=2, budget={"slot_hours": -1}, pace=1)
    assert refused.status_code == 422
    fields = {error["field"] for error in refused.json()["errors"]}
    assert fields == {"priority", "goal", "num_samples", "budget.slot_hours", "pace"}
    fields = {error["field"] for error in world.patch(one, num_samples="many", goal=95).json()["errors"]}
    assert fields == {"num_samples", "goal"}


def test_controls_of_an_experiment_with_an_unknown_searcher_cannot_be_changed(
    world: World, context: AppContext
) -> None:
    one = world.submit(**TEN)
    with context.database.write() as session:
        row = session.get_one(Experiment, one)
        row.spec = row.spec | {"searcher": {"kind": "hyperband", "num_samples": 10}}
    refused = world.patch(one, num_samples=12)
    assert refused.status_code == 409
    assert "searcher of experiment" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("done", "spec", "patch", "state"),
    [
        (10, {}, {"num_samples": 12}, "QUEUED"),
        (10, {}, {"goal": 0.99}, "COMPLETED"),
        (10, {}, {"priority": 3}, "COMPLETED"),
        (3, {"objective": {"goal": 0.51}}, {"goal": 0.99}, "QUEUED"),
        (3, {"objective": {"goal": 0.51}}, {"goal": 0.515}, "COMPLETED"),
        (3, {"objective": {"goal": 0.51}}, {"num_samples": 20}, "COMPLETED"),
        (3, {"objective": {"metric": "validation_loss", "goal": 0.6}}, {"goal": 0.1}, "QUEUED"),
        (3, {"budget": {"slot_hours": 1}}, {"budget": {"slot_hours": 2}}, "QUEUED"),
        (
            3,
            {"budget": {"trials_without_improvement": 2}},
            {"budget": {"trials_without_improvement": None}},
            "QUEUED",
        ),
        (3, {"budget": {"slot_hours": 1}}, {"priority": 3}, "COMPLETED"),
    ],
)
def test_a_complete_experiment_is_queued_again_while_work_is_left(
    world: World, done: int, spec: dict[str, Any], patch: dict[str, Any], state: str
) -> None:
    one = world.ended(done=done, **TEN, **spec)
    view = world.patch(one, **patch).json()
    assert view["state"] == state
    name = next(iter(patch))
    assert view["controls"][name] != view["spec"].get(name, view["spec"]["searcher"].get(name))
    if state == "QUEUED":
        assert view["reason"] == f"queued again: {name} changed"
        world.reconciler.reconcile_once()
        assert world.show(one)["attempt"] == 2


@pytest.mark.parametrize(
    ("done", "spec", "patch", "state"),
    [
        (10, {}, {"num_samples": 12}, "QUEUED"),
        (10, {}, {"goal": 0.99}, "COMPLETED"),
        (3, {"objective": {"goal": 0.51}}, {"goal": 0.99}, "QUEUED"),
        (3, {"budget": {"slot_hours": 1}}, {"budget": {"slot_hours": 2}}, "QUEUED"),
        (3, {"budget": {"slot_hours": 1}}, {"priority": 3}, "COMPLETED"),
    ],
)
def test_a_change_while_the_driver_finishes_is_applied(
    world: World, done: int, spec: dict[str, Any], patch: dict[str, Any], state: str
) -> None:
    one = world.started(**TEN, **spec)
    obeyed = world.show(one)["controls"]
    lines = [world.line(n, state="COMPLETED", best_value=0.5 + n / 100) for n in range(done)]
    world.beat(one, {"phase": "finalizing", "trials": lines})
    assert world.patch(one, **patch).json()["state"] == "RUNNING"
    last = {"phase": "completed", "reason": "over", "controls": obeyed, "winner": world.winner(one)}
    assert world.beat(one, last).json()["slots"] == 0
    view = world.show(one)
    assert (view["state"], view["trials"]) == (state, {"COMPLETED": done})
    assert world.beat(one, last).status_code == 200
    world.reconciler.reconcile_once()
    assert world.show(one)["attempt"] == (2 if state == "QUEUED" else 1)
    if state == "QUEUED":
        assert view["reason"] == f"queued again: {next(iter(patch))} changed"
        assert (view["ended_at"], view["slots"]) == (None, 0)
        again = world.launcher.launches[f"exp-{one}-a2"].controls
        assert again.model_dump(mode="json") == view["controls"] != obeyed


def test_a_trial_that_is_open_at_the_end_is_canceled_although_a_late_change_queues_its_experiment(
    world: World,
) -> None:
    one = world.started(**TEN)
    obeyed = world.show(one)["controls"]
    world.beat(one, {"phase": "finalizing", "trials": [world.line(0)]})
    world.patch(one, num_samples=12)
    world.beat(one, {"phase": "completed", "controls": obeyed})
    view = world.show(one)
    assert (view["state"], view["trials"]) == ("QUEUED", {"CANCELED": 1})
    world.reconciler.reconcile_once()
    world.beat(one, {"phase": "searching", "trials": [world.line(0, epoch=2)]}, 2)
    assert world.show(one)["trials"] == {"RUNNING": 1}, "its next driver decides"


def test_more_trials_do_not_undo_a_late_pause(world: World) -> None:
    one = world.started(**TEN)
    obeyed = world.show(one)["controls"]
    world.patch(one, num_samples=12)
    world.post(one, "pause")
    world.beat(one, {"phase": "completed", "controls": obeyed})
    assert world.show(one)["state"] == "COMPLETED"
    assert world.post(one, "resume").json()["state"] == "QUEUED"


def test_a_failed_experiment_keeps_changes_until_it_is_resumed(world: World) -> None:
    one = world.ended("failed", **TEN)
    before = world.show(one)
    view = world.patch(one, num_samples=50).json()
    assert (view["state"], view["controls"]["num_samples"], view["warnings"]) == ("ERROR", 50, before["warnings"])
    assert view["revision"] == before["revision"] + 1
    world.post(one, "resume")
    world.reconciler.reconcile_once()
    assert world.launcher.launches[f"exp-{one}-a2"].controls.num_samples == 50


def test_a_canceled_experiment_cannot_be_changed(world: World) -> None:
    one = world.submit(**TEN)
    world.cancel(one)
    before = world.show(one)
    refused = world.patch(one, num_samples=50)
    assert refused.status_code == 409
    assert (
        f"can no longer be changed; to start a new experiment from its trials: `rung continue {one} FIELD=VALUE`"
        in refused.json()["detail"]
    )
    assert world.show(one) == before


@pytest.mark.parametrize(
    ("done", "spec", "patch", "said"),
    [
        (10, {"objective": {"goal": 0.99}}, {"goal": 0.995}, "goal changed, but the experiment stays completed: all "
         "10 trials have run; increase num_samples to continue"),
        (10, {}, {"budget": {"slot_hours": 9}}, "budget changed, but the experiment stays completed: all 10 trials"),
        (3, {"objective": {"goal": 0.51}}, {"num_samples": 20}, "num_samples changed, but the experiment stays "
         "completed: its goal of 0.51 is reached; increase or remove it to continue"),
    ],
)  # fmt: skip
def test_a_change_without_effect_says_what_else_must_change(
    world: World, done: int, spec: dict[str, Any], patch: dict[str, Any], said: str
) -> None:
    one = world.ended(done=done, **TEN, **spec)
    before = world.show(one)["warnings"]
    view = world.patch(one, **patch).json()
    assert view["state"] == "COMPLETED"
    assert view["warnings"][: len(before)] == before
    (warning,) = view["warnings"][len(before) :]
    assert warning.startswith(said)
    assert world.show(one)["warnings"] == before, "only the response to the change has the warning"
    assert world.patch(one, priority=7).json()["warnings"] == before
