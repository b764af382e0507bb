"""What a person may do to an experiment: pause, resume, cancel a trial, change, archive, delete."""

from __future__ import annotations

import pytest

from search_spaces.replicates import replicate_number
from service.context import AppContext
from service.store.models import Experiment
from tests.support.world import World

pytestmark = pytest.mark.stores
TEN = {
    "searcher": {"kind": "random", "num_samples": 10},
    "search_space": {"label_smoothing": {"uniform": [0.0, 0.1]}},
}


def url(experiment_id: str, *more: object) -> str:
    return "/".join(["/api/v1/experiments", experiment_id, *map(str, more)])


@pytest.mark.parametrize(("verb", "state"), [("pause", "PAUSED"), ("cancel", "CANCELED")])
def test_an_action_on_a_queued_experiment_takes_effect_immediately_and_once(
    world: World, verb: str, state: str
) -> None:
    one = world.submit()
    first = world.post(one, verb)
    assert first.status_code == 200
    assert first.json()["state"] == state
    assert first.json()["reason"] == f"{state.lower()} on request"
    assert world.post(one, verb).json() == first.json()


def test_resuming_twice_changes_nothing(world: World) -> None:
    one = world.submit()
    world.post(one, "pause")
    first = world.post(one, "resume").json()
    assert first["state"] == "QUEUED"
    assert world.post(one, "resume").json() == first


def test_a_resumed_experiment_is_launched_before_younger_ones(world: World) -> None:
    one, two = (world.submit(resources={"gpus_per_trial": 0, "max_concurrent_trials": 1}) for _ in range(2))
    world.post(one, "pause")
    world.post(one, "resume")
    world.reconciler.reconcile_once()
    assert list(world.launcher.launches) == [f"exp-{one}-a1", f"exp-{two}-a1"]


def test_a_running_experiment_pauses_when_its_driver_has_stopped(world: World) -> None:
    one = world.started()
    assert world.post(one, "pause").json()["state"] == "PAUSING"
    assert world.post(one, "pause").json()["state"] == "PAUSING"
    assert world.beat(one, {"phase": "searching", "trials": [world.line(0)]}).json()["stop"] == "pause"
    assert world.beat(one, {"phase": "paused"}).json()["slots"] == 0
    view = world.show(one)
    assert (view["state"], view["reason"]) == ("PAUSED", "paused on request")
    assert view["trials"] == {"RUNNING": 1}, "its trials will resume"
    world.reconciler.reconcile_once()
    assert world.show(one)["attempt"] == 1, "no driver is launched for a paused experiment"


def test_an_experiment_cannot_be_resumed_while_it_is_pausing(world: World) -> None:
    one = world.started()
    world.post(one, "pause")
    early = world.post(one, "resume")
    assert early.status_code == 409
    assert "is still pausing; wait until it is PAUSED" in early.json()["detail"]


def test_a_resumed_experiment_gets_a_driver_that_continues(world: World) -> None:
    one = world.started()
    world.post(one, "pause")
    world.beat(one, {"phase": "paused"})
    world.post(one, "resume")
    world.reconciler.reconcile_once()
    assert world.beat(one, {"phase": "searching"}, 2).json()["stop"] is None
    assert world.show(one)["state"] == "RUNNING"


def test_a_paused_experiment_can_be_canceled(world: World) -> None:
    one = world.started()
    world.post(one, "pause")
    world.beat(one, {"phase": "paused", "trials": [world.line(0)]})
    assert world.cancel(one).json()["trials"] == {"CANCELED": 1}
    refused = world.post(one, "resume")
    assert refused.status_code == 409
    assert f"to start a new experiment from its trials: `rung continue {one}`" in refused.json()["detail"]


def test_a_cancellation_replaces_a_pause_but_not_the_reverse(world: World) -> None:
    one = world.started()
    world.post(one, "pause")
    assert world.cancel(one).json()["state"] == "STOPPING"
    refused = world.post(one, "pause")
    assert (refused.status_code, "is being canceled" in refused.json()["detail"]) == (409, True)
    late = world.client.patch(f"/api/v1/experiments/{one}", json={"num_samples": 20})
    assert late.status_code == 409
    assert f"experiment {one} is being canceled and can no longer be changed" in late.json()["detail"]
    assert world.beat(one, {"phase": "searching"}).json()["stop"] == "cancel"


def test_a_resumed_experiment_may_fail_as_often_as_a_new_one(world: World, context: AppContext) -> None:
    one = world.ended("failed", **TEN)
    with context.database.write() as session:
        session.get_one(Experiment, one).failures = 3
    view = world.post(one, "resume").json()
    assert (view["state"], view["reason"], view["ended_at"]) == ("QUEUED", "resumed on request", None)
    world.reconciler.reconcile_once()
    world.beat(one, {"phase": "canceled", "reason": "SIGTERM"}, attempt=2)
    assert world.show(one)["state"] == "QUEUED", "its failures were forgiven"


def test_a_complete_experiment_is_resumed_only_while_work_is_left(world: World) -> None:
    full = world.ended(done=10, **TEN)
    refused = world.post(full, "resume")
    assert refused.status_code == 409
    assert "all 10 trials have run; increase num_samples" in refused.json()["detail"]
    there = world.ended(done=3, objective={"goal": 0.51}, **TEN)
    refused = world.post(there, "resume")
    assert refused.status_code == 409
    assert "its goal of 0.51 is reached; increase or remove it" in refused.json()["detail"]
    spent = world.ended(done=3, **TEN)
    assert world.post(spent, "resume").json()["state"] == "QUEUED"


def test_resuming_evaluates_a_winner_that_was_not_evaluated(world: World) -> None:
    one = world.started(**TEN)
    lines = [world.line(n, state="COMPLETED", best_value=0.5 + n / 100) for n in range(10)]
    world.beat(one, {"phase": "completed", "reason": "the winner could not be measured", "trials": lines})
    assert world.post(one, "resume").json()["state"] == "QUEUED"
    world.reconciler.reconcile_once()
    world.beat(one, {"phase": "completed", "winner": world.winner(one)}, attempt=2)
    assert world.show(one)["state"] == "COMPLETED"
    assert world.post(one, "resume").status_code == 409
    world.patch(one, num_samples=11)
    world.reconciler.reconcile_once()
    surpassed = [world.line(10, state="COMPLETED", best_value=0.7)]
    world.beat(one, {"phase": "completed", "trials": surpassed}, attempt=3)
    assert world.post(one, "resume").json()["state"] == "QUEUED", "the winner is another, and not measured"


def test_a_winner_by_fresh_seeds_leaves_work_once_a_better_trial_is_found(world: World) -> None:
    one = world.started(**TEN)
    lines = [world.line(n, state="COMPLETED", best_value=0.5 + n / 100) for n in range(10)]
    runs = [replicate_number(trial, 0) for trial in (8, 9)]
    lines += [world.line(number, state="COMPLETED", best_value=0.6) for number in runs]
    winner = {"trial": runs[0], "value": 0.6, "test_accuracy": 0.5, "test_loss": 0.1}
    world.beat(one, {"phase": "completed", "trials": lines, "winner": winner})
    assert world.show(one)["best"] == {"trial": 9, "value": 0.59}
    assert world.post(one, "resume").status_code == 409, "the best trial had its replicates too"
    world.patch(one, num_samples=11)
    world.reconciler.reconcile_once()
    world.beat(one, {"phase": "completed", "trials": [world.line(10, state="COMPLETED", best_value=0.7)]}, attempt=2)
    assert world.post(one, "resume").json()["state"] == "QUEUED"


def test_canceling_a_trial_leaves_the_others(world: World) -> None:
    one = world.started(**TEN)
    world.beat(one, {"phase": "searching", "trials": [world.line(0), world.line(1), world.line(2)]})
    answer = world.post(one, "trials/1/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "RUNNING")
    assert answer.json()["cancel_asked_at"]
    revision = world.show(one)["revision"]
    assert world.post(one, "trials/1/cancel").json() == answer.json()
    assert world.show(one)["revision"] == revision
    assert world.beat(one, {"phase": "searching"}).json()["cancel_trials"] == [1]
    ended = world.line(1, state="CANCELED", stop_reason="canceled on request")
    assert world.beat(one, {"phase": "searching", "trials": [ended]}).json()["cancel_trials"] == []
    late = world.post(one, "trials/1/cancel")
    assert late.status_code == 409
    assert "has already ended as CANCELED: canceled on request" in late.json()["detail"]
    assert world.post(one, "trials/3/cancel").status_code == 404


def test_a_paused_experiment_remembers_a_canceled_trial(world: World) -> None:
    one = world.started(**TEN)
    world.post(one, "pause")
    world.beat(one, {"phase": "paused", "trials": [world.line(0)]})
    assert world.post(one, "trials/0/cancel").status_code == 202
    world.post(one, "resume")
    world.reconciler.reconcile_once()
    assert world.beat(one, {"phase": "searching", "trials": [world.line(0)]}, 2).json()["cancel_trials"] == [0]


def test_a_better_trial_after_an_earlier_end_is_the_best(world: World) -> None:
    one = world.started(**TEN)
    winner = {"trial": 0, "value": 0.7, "test_accuracy": 0.7, "test_loss": 0.1}
    lines = [world.line(0, state="COMPLETED", best_value=0.7)]
    world.beat(one, {"phase": "completed", "winner": winner, "trials": lines})
    world.patch(one, num_samples=20)
    world.reconciler.reconcile_once()
    world.beat(one, {"phase": "searching", "trials": [world.line(1, best_value=0.8)]}, attempt=2)
    assert world.show(one)["best"] == {"trial": 1, "value": 0.8}


def test_archived_experiments_are_hidden_from_lists(world: World) -> None:
    one, two = world.ended(), world.submit()
    refused = world.post(two, "archive")
    assert refused.status_code == 409
    assert "only an experiment that has ended or is paused" in refused.json()["detail"]
    view = world.post(one, "archive").json()
    assert view["archived_at"]
    assert world.post(one, "archive").json() == view

    def listed(**query: str) -> list[str]:
        return [item["id"] for item in world.client.get("/api/v1/experiments", params=query).json()["items"]]

    assert (listed(), listed(archived="true"), listed(archived="all")) == ([two], [one], [two, one])
    assert world.post(one, "unarchive").json()["archived_at"] is None
    assert listed() == [two, one]
    world.post(one, "archive")
    world.patch(one, num_samples=50)
    assert listed() == [two, one], "what runs again is in sight again"


def test_only_an_inactive_experiment_can_be_deleted(world: World) -> None:
    one, two = world.ended(), world.started()
    refused = world.client.delete(url(two))
    assert refused.status_code == 409
    assert "is RUNNING; cancel it first" in refused.json()["detail"]
    world.cancel(two)
    assert "is being canceled; wait until it is CANCELED" in world.client.delete(url(two)).json()["detail"]
    answer = world.client.delete(url(one))
    assert (answer.status_code, answer.json()["state"]) == (202, "DELETING")
    assert world.client.delete(url(one)).json() == answer.json()
    for verb in ("pause", "resume", "cancel", "archive", "trials/0/cancel"):
        assert world.post(one, verb).status_code == 409, verb
    assert "is being deleted" in world.patch(one, priority=1).json()["detail"]
