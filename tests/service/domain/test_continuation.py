"""An experiment that continues another: what it imports, what must not change, and what can be continued."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from search_spaces.replicates import replicate_number
from search_spaces.searchers.random import Random
from search_spaces.upgrade import DEPRECATED
from service.context import AppContext
from service.contract.errors import ConflictError
from service.contract.states import State
from service.domain import continuation, experiments
from service.settings import Settings
from service.store.models import Experiment
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)
SPACE = {"optimizer": {"kind": "adam", "lr": {"loguniform": [1e-4, 1e-1]}}}
SPEC = {"name": "night", "search_space": SPACE, "searcher": {"kind": "tpe", "num_samples": 10}, "labels": ["a"]}


def continue_from(world: World, source: str, patch: Any = None, **options: Any) -> httpx.Response:
    answer: httpx.Response = world.client.post(f"/api/v1/experiments/{source}/continue", json=patch, **options)
    return answer


def test_a_continuation_without_changes_imports_the_ended_trials(world: World, settings: Settings) -> None:
    source = world.started(**SPEC)
    states = ["COMPLETED", "EARLY_STOPPED", "DIVERGED", "ERROR", "CANCELED", "RUNNING"]
    lines = [world.line(n, state=state) for n, state in enumerate(states)]
    world.beat(source, {"phase": "completed", "trials": lines})
    before = world.show(source)
    answer = world.client.post(f"/api/v1/experiments/{source}/continue")
    assert answer.status_code == 201, answer.text
    view = answer.json()
    assert answer.headers["location"] == f"/api/v1/experiments/{view['id']}"
    assert (view["name"], view["state"], view["source_id"]) == ("night-continued", "QUEUED", source)
    assert (view["spec"]["searcher"]["num_samples"], view["num_samples"]) == (10, 13)
    assert {**view["spec"], "name": "night"} == before["spec"]
    assert world.show(source) == before
    world.reconciler.reconcile_once()
    launch = world.launcher.launches[f"exp-{view['id']}-a1"]
    assert launch.source == f"{settings.storage_root}/{source}"
    assert launch.controls.num_samples == 13
    assert world.launcher.launches[f"exp-{source}-a1"].source is None


def test_replicates_of_the_source_are_not_imported_and_not_counted(world: World) -> None:
    source = world.started(**SPEC)
    numbers = [0, 1, *(replicate_number(trial, seed) for trial in (0, 1) for seed in (0, 1))]
    lines = [world.line(number, state="COMPLETED", best_value=0.5) for number in numbers]
    world.beat(source, {"phase": "completed", "trials": lines})
    answer = continue_from(world, source, {"searcher": {"num_samples": 5}})
    assert answer.json()["num_samples"] == 2 + 5


def test_name_searcher_budget_and_goal_may_change(world: World) -> None:
    source = world.ended(done=10, **SPEC)
    world.patch(source, priority=4, goal=0.99, budget={"slot_hours": 7})
    patch = {
        "name": "day",
        "project": "vision",
        "labels": ["b", "c"],
        "description": "more",
        "searcher": {"kind": "random", "num_samples": 5},
        "resources": {"cpus_per_trial": 2},
        "budget": {"slot_hours": None, "wall_clock": "1h"},
        "max_restarts": 0,
    }
    view = continue_from(world, source, patch, headers={"content-type": "application/merge-patch+json"}).json()
    assert (view["name"], view["project"], view["labels"], view["num_samples"]) == ("day", "vision", ["b", "c"], 15)
    assert Random.model_validate(view["spec"]["searcher"]) == Random(num_samples=5)
    assert view["spec"]["resources"]["cpus_per_trial"] == 2
    controls = view["controls"]
    assert (controls["priority"], controls["goal"], controls["max_restarts"]) == (4, 0.99, 0), "as they were last"
    assert {name: value for name, value in controls["budget"].items() if value} == {"wall_clock": 3600}


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"dataset": "fashion_mnist"}, "dataset"),
        ({"search_space": {"batch_size": 64}}, "search_space"),
        ({"asha": {"max_t": 40}}, "asha.max_t"),
        ({"asha": {"grace_period": 5}}, "asha"),
        ({"max_epochs": 40}, "max_epochs"),
        ({"early_stopping": "none"}, "early_stopping"),
        ({"seed": 8}, "seed"),
        ({"objective": {"metric": "validation_loss", "mode": "min"}}, "objective.metric"),
        ({"objective": {"metric": "validation_loss", "mode": "min"}}, "objective.mode"),
        ({"searcher": {"kind": "grid"}, "search_space": {"optimizer": {"lr": 0.1}}}, "searcher.kind"),
        ({"serch_space": None}, "serch_space"),
        ({"name": None}, "name"),
        ({"searcher": {"num_samples": 100_000}}, "searcher.num_samples"),
        ({"searcher": {"startup_trial": 3}}, "searcher.startup_trial"),
        ({"searcher": {"kind": []}}, "searcher.kind"),
        ({"searcher": {"kind": {}}}, "searcher.kind"),
        ({"resources": {"cpus_per_trial": 999}}, "resources.cpus_per_trial"),
        ([], "document"),
    ],
)
def test_fields_that_must_not_change_are_reported(world: World, patch: Any, field: str) -> None:
    source = world.ended(done=2, **SPEC)
    answer = continue_from(world, source, patch)
    assert answer.status_code == 422, answer.text
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert len(world.client.get("/api/v1/experiments").json()["items"]) == 1


@pytest.mark.parametrize(
    ("patch", "fields"),
    [
        ({"early_stopping": {"kind": "none"}}, {"early_stopping"}),
        ({"objective": {"metric": "validation_loss"}}, {"objective.metric", "objective.mode"}),
        ({"dataset": {"name": "mnist"}}, {"dataset"}),
        ({"search_space": {"optimizer": {"kind": "sgd"}}}, {"search_space"}),
    ],
)
def test_another_kind_is_refused_without_naming_fields_that_nobody_wrote(
    world: World, patch: Any, fields: set[str]
) -> None:
    source = world.ended(done=2, **SPEC, early_stopping={"kind": "asha", "grace_period": 2})
    errors = continue_from(world, source, patch).json()["errors"]
    assert {error["field"] for error in errors} == fields
    assert {error["rule"].partition(",")[0] for error in errors} == {"must be as in the source experiment"}


def test_a_source_stored_as_version_1_is_shown_upgraded_and_continued_by_old_clients(
    world: World, context: AppContext
) -> None:
    source = world.ended(done=2, **SPEC)
    with context.database.write() as session:
        row = session.get_one(Experiment, source)
        document = dict(row.spec) | {"version": 1}
        rungs = {name: value for name, value in document.pop("early_stopping").items() if name != "kind"}
        row.spec = document | {"asha": {"max_t": document.pop("max_epochs"), **rungs}}
    view = world.show(source)
    assert (view["spec"]["version"], view["spec"]["max_epochs"]) == (2, 20)
    assert "asha" not in view["spec"]
    answer = continue_from(world, source, {"asha": {"max_t": 20, "reduction_factor": 3}})
    assert answer.status_code == 201, answer.text
    assert answer.json()["spec"] == {**view["spec"], "name": "night-continued"}
    assert answer.json()["warnings"] == [DEPRECATED]
    assert continue_from(world, source, {"max_epochs": 20}).json()["warnings"] == []


def test_a_grid_is_continued_by_another_searcher_only(world: World) -> None:
    grid = {"searcher": {"kind": "grid"}, "search_space": {"batch_size": {"choice": [32, 64]}}}
    source = world.ended(done=2, **grid)
    (error,) = continue_from(world, source).json()["errors"]
    assert (error["field"], "must be auto or gp or random or tpe" in error["rule"]) == ("searcher.kind", True)
    assert continue_from(world, source, {"searcher": {"kind": "random", "num_samples": 3}}).json()["num_samples"] == 5


def test_only_an_inactive_experiment_can_be_continued(world: World) -> None:
    source = world.started(**SPEC)
    refused = continue_from(world, source)
    assert refused.status_code == 409
    assert "is RUNNING; only an experiment that has ended or is paused" in refused.json()["detail"]
    world.cancel(source)
    world.beat(source, {"phase": "canceled"})
    assert continue_from(world, source, headers={"If-Match": '"1"'}).status_code == 412
    assert continue_from(world, source, {}).status_code == 201
    assert continue_from(world, "k3v9q2mz").status_code == 404
    assert world.client.post(f"/api/v1/experiments/{source}/continue", content=b"x: 1").status_code == 415


def test_a_source_is_not_changed_or_deleted_before_its_trials_are_imported(world: World) -> None:
    source = world.ended(done=2, **SPEC)
    one = continue_from(world, source).json()["id"]
    address = f"/api/v1/experiments/{source}"

    def check_spared() -> None:
        for refused in (world.client.delete(address), world.client.patch(address, json={"num_samples": 30})):
            assert refused.status_code == 409
            assert f"experiment {one} continues from {source} and has not imported" in refused.json()["detail"]
        assert world.show(source)["num_samples"] != 30

    check_spared()
    world.reconciler.reconcile_once()
    check_spared()
    world.post(one, "pause")
    world.beat(one, {"phase": "paused"})  # it was lost before it had read anything
    check_spared()
    world.post(one, "resume")
    world.reconciler.reconcile_once()
    world.beat(one, {"phase": "searching", "trials": [world.line(0, state="COMPLETED")]}, 2)
    assert world.client.delete(address).status_code == 202
    assert continue_from(world, source).status_code == 409
    assert world.show(one)["source_id"] == source


def test_a_source_is_not_resumed_before_its_trials_are_imported(world: World) -> None:
    source = world.ended(done=2, **SPEC)
    one = continue_from(world, source).json()["id"]
    refused = world.post(source, "resume")
    assert refused.status_code == 409
    assert f"experiment {one} continues from {source} and has not imported" in refused.json()["detail"]
    world.cancel(one)
    assert world.post(source, "resume").json()["state"] == "QUEUED"


def test_a_continuation_without_trials_is_resumed_only_while_its_source_is_inactive(world: World) -> None:
    source = world.ended(done=2, **SPEC)
    one = continue_from(world, source, {"resources": {"gpus_per_trial": 0}}).json()["id"]
    world.reconciler.reconcile_once()
    world.beat(one, {"phase": "failed", "reason": "nothing was read"})
    assert world.post(source, "resume").json()["state"] == "QUEUED"
    refused = world.post(one, "resume")
    assert refused.status_code == 409
    assert f"continues from {source}, which is QUEUED, and has not imported" in refused.json()["detail"]
    world.post(source, "pause")
    assert world.post(one, "resume").json()["state"] == "QUEUED"
    world.reconciler.reconcile_once()
    world.beat(one, {"phase": "failed", "trials": [world.line(0, state="COMPLETED")]}, 2)
    world.post(source, "resume")
    assert world.post(one, "resume").json()["state"] == "QUEUED", "it has them in its own journal"


def test_a_continuation_without_trials_is_not_resumed_after_its_source_was_deleted(
    world: World, context: AppContext
) -> None:
    source = world.ended(done=2, **SPEC)
    one = continue_from(world, source).json()["id"]
    world.reconciler.reconcile_once()
    world.beat(one, {"phase": "failed", "reason": "nothing was read"})
    assert world.client.delete(f"/api/v1/experiments/{source}").status_code == 202
    said = f"continues from {source}, which was deleted before its trials were imported"
    assert said in world.post(one, "resume").json()["detail"]
    with context.database.write() as session:
        session.delete(session.get_one(Experiment, source))
    refused = world.post(one, "resume")
    assert (refused.status_code, said in refused.json()["detail"]) == (409, True)


def test_a_pending_continuation_does_not_block_a_final_heartbeat(world: World, context: AppContext) -> None:
    source = world.ended(done=2, **SPEC)
    one = continue_from(world, source).json()["id"]
    with context.database.write() as session:  # as it was possible once
        session.get_one(Experiment, one).state = State.ERROR
    world.post(source, "resume")
    world.reconciler.reconcile_once()
    with context.database.write() as session:
        session.get_one(Experiment, one).state = State.QUEUED
    obeyed = world.show(source)["controls"]
    world.patch(source, num_samples=20)
    winner = {"trial": 0, "value": 0.7, "test_accuracy": 0.7, "test_loss": 0.1}
    last = {"phase": "completed", "reason": "over", "controls": obeyed, "winner": winner}
    assert world.beat(source, last, 2).status_code == 200
    view = world.show(source)
    assert (view["state"], view["winner"]["trial"]) == ("COMPLETED", 0)
    said = f"over; it was changed while its driver finished, and stays completed: experiment {one} continues from"
    assert view["reason"].startswith(said)


@pytest.mark.parametrize("ending", ["cancel", "pause"])
def test_a_source_that_never_ran_has_nothing_to_import(world: World, ending: str) -> None:
    source = world.submit(**SPEC)
    world.post(source, ending)
    view = continue_from(world, source).json()
    assert (view["source_id"], view["num_samples"]) == (source, 10)
    world.reconciler.reconcile_once()
    assert world.launcher.launches[f"exp-{view['id']}-a1"].source is None


def test_a_source_that_became_active_meanwhile_is_not_continued(world: World, context: AppContext) -> None:
    source = world.ended(done=2, **SPEC)
    with context.database.read() as session:
        spec = continuation.requested_spec(experiments.find(session, source), {})
    world.post(source, "resume")
    with (
        pytest.raises(ConflictError, match="is QUEUED; only an experiment"),
        context.database.write() as session,
    ):
        continuation.submit(session, experiments.find(session, source, lock=True), spec, [])


@pytest.mark.parametrize("gone", ["canceled", "deleted"])
def test_an_ended_continuation_does_not_protect_its_source(world: World, gone: str) -> None:
    source = world.ended(done=2, **SPEC)
    one = continue_from(world, source).json()["id"]
    if gone == "canceled":
        world.cancel(one)
    else:
        world.post(one, "pause")
        world.client.delete(f"/api/v1/experiments/{one}")
        assert world.show(one)["state"] == "DELETING"
    assert world.client.delete(f"/api/v1/experiments/{source}").status_code == 202


def test_the_name_of_a_continuation_stays_within_the_limit(world: World) -> None:
    source = world.ended(**{**SPEC, "name": "n" * 128})
    assert continue_from(world, source).json()["name"] == "n" * 118 + "-continued"
