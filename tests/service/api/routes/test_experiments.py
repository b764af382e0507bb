"""Submit, list and show experiments."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from search_spaces.validation import validate
from service.context import AppContext
from service.scheduling.reconciler import Reconciler
from service.store.models import Experiment
from tests.support.world import World

pytestmark = pytest.mark.stores

EXPERIMENTS = "/api/v1/experiments"


def test_a_submitted_spec_is_completed_stored_and_queued(client: httpx.Client) -> None:
    answer = client.post(EXPERIMENTS, json={"name": "first", "labels": ["a"]})
    assert answer.status_code == 201
    view = answer.json()
    assert answer.headers["location"] == f"{EXPERIMENTS}/{view['id']}"
    assert (view["state"], view["num_samples"], view["attempts"]) == ("QUEUED", 20, [])
    assert validate(view["spec"]).name == "first"
    assert client.get(answer.headers["location"]).json() == view


def test_yaml_and_json_give_the_same_spec(client: httpx.Client) -> None:
    text = "name: first\nsearcher: {kind: random, num_samples: 3}\n"
    answer = client.post(EXPERIMENTS, content=text, headers={"content-type": "application/yaml; charset=utf-8"})
    same = client.post(EXPERIMENTS, json={"name": "first", "searcher": {"kind": "random", "num_samples": 3}})
    assert answer.json()["spec"] == same.json()["spec"]


def test_validate_only_stores_nothing(client: httpx.Client) -> None:
    spec = {"name": "x", "search_space": {"augmentation": {"horizontal_flip": 0.5}}}
    answer = client.post(EXPERIMENTS, json=spec, params={"validate_only": "true"})
    assert answer.status_code == 200
    assert answer.json().keys() == {"spec", "warnings", "num_samples", "forecast"}
    assert "horizontal_flip" in answer.json()["warnings"][0]
    assert client.get(EXPERIMENTS).json() == {"items": [], "next_cursor": None}


def test_the_cluster_decides_the_gpus_of_a_trial_and_limits_them(client: httpx.Client, reconciler: Reconciler) -> None:
    assert client.post(EXPERIMENTS, json={"name": "x"}).json()["spec"]["resources"]["gpus_per_trial"] is None
    reconciler.reconcile_once()
    assert client.post(EXPERIMENTS, json={"name": "x"}).json()["spec"]["resources"]["gpus_per_trial"] == 1
    answer = client.post(EXPERIMENTS, json={"name": "x", "resources": {"cpus_per_trial": 9}})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["field"], error["value"]) == ("resources.cpus_per_trial", 9)
    assert "must be at most 8: the largest node, large" in error["rule"]


def test_pages_of_experiments_have_no_gap_and_no_overlap(client: httpx.Client, world: World) -> None:
    ids = [world.submit(name=f"n{number}") for number in range(5)]
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while True:
        page = client.get(EXPERIMENTS, params=query).json()
        seen += [item["id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        world.submit(name="late")  # what comes meanwhile does not move the pages behind
        query["cursor"] = page["next_cursor"]
    assert seen == ids[::-1]


def test_lists_are_filtered(client: httpx.Client, world: World) -> None:
    one = world.submit(name="digits-LR", project="vision", labels=["night", "lr"])
    two = world.submit(name="other_100", project="speech")
    client.post(f"{EXPERIMENTS}/{two}/cancel")

    def found(**query: Any) -> list[str]:
        return [item["id"] for item in client.get(EXPERIMENTS, params=query).json()["items"]]

    assert found(project="vision") == [one]
    assert found(name="lr") == [one]
    assert found(name="_") == [two]
    assert found(name="%") == []
    assert found(label="night") == [one]
    assert found(state="CANCELED") == [two]
    assert found(state=["CANCELED", "QUEUED"]) == [two, one]
    assert found(project="vision", state="CANCELED") == []


@pytest.mark.parametrize("path", ["/api/v1/experiments/k3v9q2mz", "/api/v1/experiments/k3v9q2mz/trials/0"])
def test_an_unknown_experiment_is_404(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert "there is no experiment 'k3v9q2mz'" in answer.json()["detail"]


def test_a_stored_spec_that_breaks_a_later_rule_is_shown_and_fails_with_a_reason(
    client: httpx.Client, world: World, context: AppContext
) -> None:
    old, other = world.submit(name="old"), world.submit(name="other", resources={"gpus_per_trial": 0})
    with context.database.write() as session:
        row = session.get_one(Experiment, old)
        row.spec = row.spec | {"early_stopping": row.spec["early_stopping"] | {"reduction_factor": 1.1}}
    world.reconciler.reconcile_once()
    assert world.show(other)["state"] == "RUNNING", "one that cannot be read holds up no other"
    shown = world.show(old)
    assert (shown["state"], shown["spec"]["early_stopping"]["reduction_factor"]) == ("ERROR", 1.1)
    assert "this version of Rung cannot run its spec" in shown["reason"]
    assert "early_stopping.asha.reduction_factor" in shown["reason"]
    assert {one["id"] for one in client.get(EXPERIMENTS).json()["items"]} >= {old, other}


def test_a_stored_goal_out_of_reach_does_not_block_the_experiment(
    client: httpx.Client, world: World, context: AppContext
) -> None:
    one = world.ended("failed", done=1, resources={"gpus_per_trial": 0})
    with context.database.write() as session:
        row = session.get_one(Experiment, one)
        row.spec = row.spec | {"objective": row.spec["objective"] | {"goal": 95.0}}
        row.controls = row.controls | {"goal": 95.0}
    assert world.patch(one, priority=3).status_code == 200
    assert world.patch(one, goal=96).status_code == 422
    assert world.beat(one, {"phase": "failed"}).status_code == 200
    assert world.post(one, "resume").status_code == 200
    world.reconciler.reconcile_once()
    assert world.show(one)["state"] == "RUNNING"
    sample = [world.line(0, state="COMPLETED", sample={})]
    assert world.beat(one, {"phase": "failed", "trials": sample}, 2).status_code == 200
    assert client.get(f"{EXPERIMENTS}/{one}/trials/0/spec").json()["objective"]["goal"] == 95
    asked = f"{EXPERIMENTS}/{one}/continue"
    assert client.post(asked, json={}).json()["errors"][0]["field"] == "objective.goal"
    assert client.post(asked, json={"objective": {"goal": 0.95}}).status_code == 201


def test_controls_that_cannot_be_read_are_reported(world: World, context: AppContext) -> None:
    one, running = world.ended(resources={"gpus_per_trial": 0}), world.started()
    obeyed = world.show(running)["controls"]
    for experiment in (one, running):
        with context.database.write() as session:
            row = session.get_one(Experiment, experiment)
            row.controls = row.controls | {"num_samples": 0}
    answers = [world.patch(one, priority=1), world.post(one, "resume"), world.post(one, "continue")]
    for answer in (*answers, world.patch(running, priority=1)):
        assert answer.status_code == 409
        assert "cannot be read by this version" in answer.json()["detail"]
    assert world.beat(running, {"phase": "completed", "controls": obeyed}).status_code == 200
    view = world.show(running)
    assert (view["state"], "stays completed: the controls of" in view["reason"]) == ("COMPLETED", True)
