"""Heartbeats: who may send one, what it changes, and what is answered."""

from __future__ import annotations

import httpx
import pytest
from sqlalchemy import select

from search_spaces.replicates import replicate_number
from service.context import AppContext
from service.store.models import Base, Experiment
from tests.support.world import World

pytestmark = pytest.mark.stores

HEARTBEAT = {"phase": "searching"}
#: What newer drivers also report of a winner.
TESTED = ("test_balanced_accuracy", "test_macro_f1", "test_top5_accuracy", "test_calibration_error")


def url(experiment_id: str, attempt: int = 1) -> str:
    return f"/api/v1/attempts/exp-{experiment_id}-a{attempt}/heartbeat"


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({}, 401),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Basic dTpw"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": "Bearer wrong"}, 403),
        ({"Authorization": "Bearer w\u00f6rong"}, 403),
    ],
)
def test_a_heartbeat_needs_the_token_of_its_driver(world: World, header: dict[str, str], status: int) -> None:
    one = world.started()
    headers = {name: value.encode("latin-1") for name, value in header.items()}
    answer = world.client.post(url(one), json={"phase": "completed"}, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert world.show(one)["state"] == "RUNNING"


def test_a_token_is_valid_for_its_own_attempt_only(world: World) -> None:
    one, two = world.started(), world.started()
    token = world.launcher.launches[f"exp-{one}-a1"].token
    bearer = {"Authorization": f"Bearer {token}"}
    assert world.client.post(url(two), json=HEARTBEAT, headers=bearer).status_code == 403
    assert world.client.post(url(one), json=HEARTBEAT, headers=bearer).status_code == 200
    assert world.client.post(url("k3v9q2mz"), json=HEARTBEAT, headers=bearer).status_code == 403
    assert world.client.post(url("%00"), json=HEARTBEAT, headers=bearer).status_code == 403


def test_the_token_is_not_in_the_database(world: World, context: AppContext) -> None:
    one = world.started()
    token = world.launcher.launches[f"exp-{one}-a1"].token
    with context.database.read() as session:
        stored = repr([session.execute(select(table)).all() for table in Base.metadata.sorted_tables])
    assert one in stored
    assert token not in stored


def test_progress_is_shown(world: World) -> None:
    one = world.started(objective={"metric": "validation_loss"})
    first = {
        "phase": "searching",
        "mlflow_experiment_id": "7",
        "mlflow_run_id": "parent",
        "trials": [world.line(0, best_value=0.5, mlflow_run_id="child"), world.line(1, best_value=0.2)],
        "said_by_a_newer_driver": True,
    }
    view = world.show(one)
    orders = {"slots": 10, "stop": None, "stop_reason": "", "stop_epochs": False, "cancel_trials": []}
    orders |= {"controls": view["controls"], "pool": {"labels": {}, "others": [], "gpu_types": []}, "slot_nodes": None}
    assert world.beat(one, first).json() == orders
    view = world.show(one)
    assert (view["state"], view["phase"], view["trials"]) == ("RUNNING", "searching", {"RUNNING": 2})
    assert view["best"] == {"trial": 1, "value": 0.2}
    assert view["mlflow_url"].endswith("/#/experiments/7/runs/parent")
    assert view["mlflow_view_url"] is None
    world.beat(one, {"phase": "searching", "mlflow_view": f"rung-{one}"})
    world.beat(one, {"phase": "searching"})
    address = f"/#/experiments/7/runs?viewStateShareKey=rung-{one}&compareRunsMode=CHART"
    assert world.show(one)["mlflow_view_url"].endswith(address)
    ended = world.line(1, state="EARLY_STOPPED", stop_reason="rung 1", best_value=0.2, ended_at=1_700_000_100)
    world.beat(one, {"phase": "finalizing", "trials": [ended]})
    view = world.show(one)
    assert (view["phase"], view["trials"]) == ("finalizing", {"RUNNING": 1, "EARLY_STOPPED": 1})
    trial = world.client.get(f"/api/v1/experiments/{one}/trials/1").json()
    assert (trial["stop_reason"], trial["ended_at"]) == ("rung 1", "2023-11-14T22:15:00Z")


def test_a_completed_driver_ends_its_experiment_with_the_winner(world: World) -> None:
    one = world.started()
    winner = {"trial": 3, "value": 0.97, "test_accuracy": 0.96, "test_loss": 0.1, "model_uri": "models:/x/1"}
    lines = [world.line(3, state="COMPLETED", best_value=0.97), world.line(4)]
    last = {"phase": "completed", "winner": winner, "trials": lines}
    assert world.beat(one, last).json()["slots"] == 0
    view = world.show(one)
    assert (view["state"], view["best"], view["slots"]) == ("COMPLETED", {"trial": 3, "value": 0.97}, 0)
    later = ("model_sha256", *(name for name in TESTED if name not in winner))
    assert view["winner"] == winner | dict.fromkeys(later)
    assert view["trials"] == {"COMPLETED": 1, "CANCELED": 1}, "a trial outlived its experiment"
    assert world.beat(one, last).status_code == 200, "a final heartbeat that is repeated is answered again"
    late = world.beat(one, HEARTBEAT)
    assert late.status_code == 409
    assert "stop, and write nothing more" in late.json()["detail"]
    refused = world.cancel(one)
    assert refused.status_code == 409
    assert "has already ended as COMPLETED" in refused.json()["detail"]


def test_replicates_are_no_part_of_the_search(world: World) -> None:
    one = world.started(searcher={"kind": "random", "num_samples": 2}, finalists={"trials": 2, "seeds": 2})
    ended = [world.line(number, state="COMPLETED", best_value=0.9 - number / 10) for number in range(2)]
    runs = [replicate_number(trial, seed) for trial in range(2) for seed in range(2)]
    world.beat(one, {"phase": "searching", "trials": [*ended, *(world.line(run, best_value=0.99) for run in runs)]})
    world.reconciler.reconcile_once()
    view = world.show(one)
    assert (view["best"], view["trials"]) == ({"trial": 0, "value": 0.9}, {"COMPLETED": 2})
    assert view["slots"] == 4, "each replicate can use a slot"
    path = f"/api/v1/experiments/{one}/trials"
    assert [row["trial"] for row in world.client.get(path).json()["items"]] == [0, 1]
    assert [row["trial"] for row in world.client.get(path, params={"replicates": True}).json()["items"]] == runs
    assert world.client.get(f"{path}/{runs[0]}").json()["trial"] == runs[0]
    winner = {"trial": runs[2], "value": 0.99, "test_accuracy": 0.96, "test_loss": 0.1, "model_uri": "models:/x/1"}
    done = [world.line(run, state="COMPLETED", best_value=0.99) for run in runs]
    world.beat(one, {"phase": "completed", "winner": winner, "trials": done})
    view = world.show(one)
    assert (view["state"], view["best"], view["winner"]["trial"]) == ("COMPLETED", {"trial": 0, "value": 0.9}, runs[2])
    refused = world.post(one, "resume")
    assert refused.status_code == 409
    assert "all 2 trials have run" in refused.json()["detail"]


def test_what_a_driver_waits_for_is_shown_until_that_is_over(world: World) -> None:
    one = world.started()
    for reason in ("waiting for MLflow: it is unavailable", ""):
        world.beat(one, {"phase": "finalizing", "reason": reason})
        assert (world.show(one)["state"], world.show(one)["reason"]) == ("RUNNING", reason)
    world.cancel(one)
    asked = world.show(one)["reason"]
    world.beat(one, {"phase": "finalizing", "reason": "waiting for MLflow: it is unavailable"})
    assert world.show(one)["reason"] == asked


def test_a_failed_driver_ends_the_experiment_with_its_reason(world: World) -> None:
    one = world.started()
    world.beat(one, {"phase": "failed", "reason": "the data set is not there", "trials": [world.line(0)]})
    view = world.show(one)
    assert (view["state"], view["reason"]) == ("ERROR", "the data set is not there")
    assert view["trials"] == {"ERROR": 1}


@pytest.mark.parametrize("last", ["canceled", "failed"])
def test_a_cancellation_reaches_the_driver_and_ends_the_experiment(world: World, last: str) -> None:
    one = world.started()
    assert world.cancel(one).json()["state"] == "STOPPING"
    assert world.cancel(one).json()["state"] == "STOPPING"
    assert world.beat(one, HEARTBEAT).json()["stop"] == "cancel"
    world.beat(one, {"phase": last})
    assert world.show(one)["state"] == "CANCELED"


def test_an_experiment_that_completes_before_its_cancellation_is_complete(world: World) -> None:
    one = world.started()
    world.cancel(one)
    world.beat(one, {"phase": "completed"})
    assert world.show(one)["state"] == "COMPLETED"


@pytest.mark.parametrize("last", ["canceled", "paused"])
def test_a_driver_that_stops_without_a_request_is_replaced(world: World, last: str) -> None:
    one = world.started()
    world.beat(one, {"phase": last, "reason": "SIGTERM"})
    view = world.show(one)
    assert view["state"] == "QUEUED"
    assert "the driver stopped: SIGTERM" in view["reason"]


def test_only_failures_in_a_row_count(world: World, context: AppContext) -> None:
    one = world.started()
    for update, failures in ((None, 2), (world.line(0, epoch=2), 0), (world.line(0, epoch=2), 2)):
        with context.database.write() as session:
            session.get_one(Experiment, one).failures = 2
        world.beat(one, {"phase": "searching", "trials": [update] if update else []})
        with context.database.read() as session:
            assert session.get_one(Experiment, one).failures == failures


def test_a_driver_that_is_blocked_pauses_its_experiment(world: World) -> None:
    one = world.started()
    full = {"phase": "paused", "blocked": True, "reason": "the disk of the storage folder is full"}
    world.beat(one, {**full, "trials": [world.line(0), world.line(1, state="COMPLETED")]})
    view = world.show(one)
    assert (view["state"], view["reason"]) == ("PAUSED", "the disk of the storage folder is full")
    assert view["trials"] == {"RUNNING": 1, "COMPLETED": 1}, "its open trials wait, they have not ended"
    world.reconciler.reconcile_once()
    assert world.show(one)["attempt"] == 1, "another driver would have met the same"
    assert world.post(one, "resume").json()["state"] == "QUEUED"
    world.reconciler.reconcile_once()
    assert world.show(one)["attempt"] == 2


BROKEN = [
    "",
    "nonsense",
    "[]",
    "{}",
    '{"phase": "dancing"}',
    '{"phase": "searching", "trials": [{"trial": -1, "state": "RUNNING"}]}',
    '{"phase": "searching", "trials": [{"trial": 99999999999999999999, "state": "RUNNING"}]}',
    '{"phase": "searching", "trials": [{"trial": 0, "epoch": 1e300, "state": "RUNNING"}]}',
    '{"phase": "searching", "trials": [{"trial": 0, "state": "ASLEEP"}]}',
    '{"phase": "searching", "trials": [{"trial": 0, "best_epoch": 99999999999, "state": "RUNNING"}]}',
    '{"phase": "searching", "trials": [{"trial": 0, "restarts": -1, "state": "RUNNING"}]}',
    '{"phase": "searching", "trials": [{"trial": 0, "parameters": {"a": [1]}, "state": "RUNNING"}]}',
    '{"phase": "searching", "mlflow_run_id": "%s"}' % ("a" * 65),
    '{"phase": "completed", "winner": {"trial": 99999999999, "value": 1, "test_accuracy": 1, "test_loss": 1}}',
    '{"phase": "completed", "winner": {"trial": 0, "value": 1, "test_accuracy": 7, "test_loss": 1}}',
    '{"phase": "searching", "winner": {"trial": 0, "value": 1, "test_accuracy": NaN, "test_loss": 1}}',
    '{"phase": "completed", "winner": {"trial": 0, "value": 1, "test_accuracy": 1,"test_macro_f1": -1, "test_loss":1}}',
    '{"phase": "completed", "winner": {"trial": 0, "value": 7, "test_accuracy": 1, "test_loss": 1}}',
    "[" * 100_000,
    '{"phase": 1' + "0" * 5_000 + "}",
]


def test_a_broken_heartbeat_changes_nothing(world: World) -> None:
    one = world.started()
    before = world.show(one)
    for body in BROKEN:
        answer: httpx.Response = world.beat(one, body)
        assert 400 <= answer.status_code < 500, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert world.show(one) == before


def test_a_winner_by_its_loss_may_have_a_value_above_1(world: World) -> None:
    one = world.started(objective={"metric": "validation_loss"})
    winner = {"trial": 0, "value": 2.3, "test_accuracy": 1, "test_loss": 7}
    assert world.beat(one, {"phase": "completed", "winner": winner}).status_code == 200
    assert world.show(one)["best"] == {"trial": 0, "value": 2.3}


def test_values_that_are_not_finite_and_impossible_times_are_stored_as_null(world: World) -> None:
    one = world.started()
    line = '{"trial": 0, "state": "DIVERGED", "best_value": NaN, "metrics": {"train_loss": Infinity}, '
    line += '"parameters": {"lr": NaN}, "started_at": 1e300, "ended_at": NaN}'
    assert world.beat(one, f'{{"phase": "searching", "trials": [{line}]}}').status_code == 200
    trial = world.client.get(f"/api/v1/experiments/{one}/trials/0").json()
    assert (trial["best_value"], trial["metrics"]) == (None, {"train_loss": None})
    assert (trial["started_at"], trial["ended_at"]) == (None, None)


def test_texts_that_no_database_can_store_are_sanitized(world: World) -> None:
    one = world.started()
    line = world.line(0, parameters={"a\0b": "x\0y\ud800z", "n": 10**30}, mlflow_run_id="r\0un", best_epoch=1)
    beat = {"phase": "searching", "mlflow_experiment_id": "7\0", "mlflow_run_id": "p\0", "trials": [line]}
    assert world.beat(one, beat).status_code == 200
    trial = world.client.get(f"/api/v1/experiments/{one}/trials/0").json()
    assert trial["parameters"] == {"ab": "xy?z", "n": 10**30}
    assert (trial["mlflow_run_id"], trial["best_epoch"], world.show(one)["mlflow_run_id"]) == ("run", 1, "p")
