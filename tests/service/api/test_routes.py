"""The REST interface over a real socket: submit, list, page, sort, show, cancel, and the documents about itself."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from search_spaces.experiment import ExperimentSpec, TrialSpec
from search_spaces.validation import validate
from service.context import AppContext
from service.scheduling.reconciler import Reconciler
from service.store.models import Experiment
from tests.support.memory_launcher import MemoryLauncher
from tests.support.world import World

pytestmark = pytest.mark.stores

EXPERIMENTS = "/api/v1/experiments"


def test_a_spec_is_stored_completed_and_queued(client: httpx.Client) -> None:
    answer = client.post(EXPERIMENTS, json={"name": "first", "labels": ["a"]})
    assert answer.status_code == 201
    view = answer.json()
    assert answer.headers["location"] == f"{EXPERIMENTS}/{view['id']}"
    assert (view["state"], view["num_samples"], view["attempts"]) == ("QUEUED", 20, [])
    assert validate(view["spec"]).name == "first"
    assert client.get(answer.headers["location"]).json() == view


def test_yaml_means_the_same(client: httpx.Client) -> None:
    text = "name: first\nsearcher: {kind: random, num_samples: 3}\n"
    answer = client.post(EXPERIMENTS, content=text, headers={"content-type": "application/yaml; charset=utf-8"})
    same = client.post(EXPERIMENTS, json={"name": "first", "searcher": {"kind": "random", "num_samples": 3}})
    assert answer.json()["spec"] == same.json()["spec"]


def test_validate_only_stores_nothing(client: httpx.Client) -> None:
    spec = {"name": "x", "search_space": {"augmentation": {"horizontal_flip": 0.5}}}
    answer = client.post(EXPERIMENTS, json=spec, params={"validate_only": "true"})
    assert answer.status_code == 200
    assert answer.json().keys() == {"spec", "warnings", "num_samples"}
    assert "horizontal_flip" in answer.json()["warnings"][0]
    assert client.get(EXPERIMENTS).json() == {"items": [], "next_cursor": None}


def test_gpus_are_decided_by_the_cluster_and_too_many_refused(client: httpx.Client, reconciler: Reconciler) -> None:
    assert client.post(EXPERIMENTS, json={"name": "x"}).json()["spec"]["resources"]["gpus_per_trial"] is None
    reconciler.reconcile_once()
    assert client.post(EXPERIMENTS, json={"name": "x"}).json()["spec"]["resources"]["gpus_per_trial"] == 1
    answer = client.post(EXPERIMENTS, json={"name": "x", "resources": {"gpus_per_trial": 4}})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["field"], error["value"]) == ("resources.gpus_per_trial", 4)
    assert "at most 2 required: the largest node, large" in error["rule"]


def test_pages_of_experiments_meet_without_gap_or_overlap(client: httpx.Client, world: World) -> None:
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


def test_filters(client: httpx.Client, world: World) -> None:
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


def test_trials_sorted_and_paged_with_the_valueless_last(client: httpx.Client, world: World) -> None:
    one = world.submit(resources={"gpus_per_trial": 0})
    world.reconciler.reconcile_once()
    values = [0.3, None, 0.9, 0.3, float("nan"), 0.5]
    lines = [
        world.line(n, metrics=dict.fromkeys(("validation_accuracy", "weight_norm"), v), best_value=v)
        for n, v in enumerate(values)
    ]
    text = json.dumps({"phase": "searching", "trials": lines})
    assert world.beat(one, text).status_code == 200

    def order(sort: str, limit: int) -> list[int]:
        seen: list[int] = []
        query: dict[str, Any] = {"sort": sort, "limit": limit}
        while True:
            page = client.get(f"{EXPERIMENTS}/{one}/trials", params=query).json()
            seen += [item["trial"] for item in page["items"]]
            if page["next_cursor"] is None:
                return seen
            query["cursor"] = page["next_cursor"]

    for limit in (1, 2, 50):
        assert order("-validation_accuracy", limit) == [2, 5, 0, 3, 1, 4]
        assert order("validation_accuracy", limit) == [0, 3, 5, 2, 1, 4]
        assert order("-weight_norm", limit) == [2, 5, 0, 3, 1, 4]
        assert order("-best_value", limit) == [2, 5, 0, 3, 1, 4]
        assert order("-started_at", limit) == [5, 4, 3, 2, 1, 0]
        assert order("trial", limit) == [0, 1, 2, 3, 4, 5]
        assert order("-train_loss", limit) == [0, 1, 2, 3, 4, 5]
    assert client.get(f"{EXPERIMENTS}/{one}").json()["best"] == {"trial": 2, "value": 0.9}
    shown = client.get(f"{EXPERIMENTS}/{one}/trials/4").json()
    assert shown["metrics"] == {"validation_accuracy": None, "weight_norm": None}


def test_a_waiting_experiment_is_canceled_at_once_and_only_once(client: httpx.Client, world: World) -> None:
    one = world.submit()
    first = client.post(f"{EXPERIMENTS}/{one}/cancel")
    assert (first.status_code, first.json()["state"]) == (200, "CANCELED")
    assert client.post(f"{EXPERIMENTS}/{one}/cancel").json() == first.json()


def test_curves_are_503_while_mlflow_is_away(client: httpx.Client, world: World) -> None:
    one = world.submit()
    world.reconciler.reconcile_once()
    world.beat(one, {"phase": "searching", "trials": [world.line(0), world.line(1, mlflow_run_id="r1")]})
    without = client.get(f"{EXPERIMENTS}/{one}/trials/0/curves")
    assert without.status_code == 404
    assert without.json()["detail"] == f"trial 0 of experiment {one} has no curve yet"
    away = client.get(f"{EXPERIMENTS}/{one}/trials/1/curves")
    assert away.status_code == 503
    assert "does not answer" in away.json()["detail"]


def test_health_and_readiness(client: httpx.Client, reconciler: Reconciler, launcher: MemoryLauncher) -> None:
    for prefix in ("", "/api/v1"):
        assert client.get(f"{prefix}/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"], ready.json()["ray"]["ok"]) == (200, True, False)
    reconciler.reconcile_once()
    assert client.get("/readyz").json()["ray"] == {"ok": True, "why": ""}
    launcher.unreachable = True
    reconciler.reconcile_once()
    assert client.get("/readyz").json()["ray"] == {"ok": False, "why": "connection refused"}
    assert client.get("/readyz").json()["mlflow"]["ok"] is False


def test_the_cluster_and_its_shares(client: httpx.Client, world: World) -> None:
    one = world.submit(resources={"gpus_per_trial": 0.5, "max_concurrent_trials": 3})
    world.reconciler.reconcile_once()
    cluster = client.get("/api/v1/cluster").json()
    assert cluster["nodes"] == [
        {"name": "small", "cpus": 2, "gpus": 0},
        {"name": "large", "cpus": 8, "gpus": 2},
    ]
    assert [(share["experiment_id"], share["slots"]) for share in cluster["shares"]] == [(one, 3)]


def test_the_catalog(client: httpx.Client) -> None:
    schema = Draft202012Validator(client.get("/api/v1/schema").json())
    assert not schema.is_valid({"name": "x", "dataset": "cifar"})
    listed = client.get("/api/v1/presets").json()
    assert "digits-quick" in [preset["name"] for preset in listed]
    for preset in listed:
        shown = client.get(f"/api/v1/presets/{preset['name']}").json()
        assert schema.is_valid(shown["spec"])
        answer = client.post(EXPERIMENTS, json=shown["spec"], params={"validate_only": True})
        same = client.post(
            EXPERIMENTS,
            content=shown["yaml"],
            params={"validate_only": True},
            headers={"content-type": "application/yaml"},
        )
        assert answer.status_code == 200
        assert same.json() == answer.json()


def test_the_docs_need_nobody_else(client: httpx.Client) -> None:
    page = client.get("/", follow_redirects=True).text
    assert "http://" not in page
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert asset in page
        assert client.get(f"/docs/assets/{asset}").status_code == 200


def test_openapi_documents_every_route_with_its_problems(client: httpx.Client) -> None:
    document = client.get("/api/v1/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["tags"], (method, path)
            assert operation.get("description"), (method, path)
    submission = document["paths"][EXPERIMENTS]["post"]
    assert {"200", "201", "400", "413", "415", "422"} <= submission["responses"].keys()
    examples = submission["requestBody"]["content"]["application/json"]["examples"]
    for example in examples.values():
        validate(example["value"])
    references = set(json.dumps(document).split('"#/components/schemas/')[1:])
    for reference in references:
        assert reference.partition('"')[0] in document["components"]["schemas"]


def test_openapi_has_the_served_schema_of_a_spec(client: httpx.Client) -> None:
    text = client.get("/api/v1/schema").text.replace("#/$defs/", "#/components/schemas/")
    schema = json.loads(text)
    definitions = schema.pop("$defs") | {"ExperimentSpec": schema}
    components = client.get("/api/v1/openapi.json").json()["components"]["schemas"]
    assert {name: components[name] for name in definitions} == definitions


@pytest.mark.parametrize("path", ["/api/v1/experiments/k3v9q2mz", "/api/v1/experiments/k3v9q2mz/trials/0"])
def test_what_is_not_there_is_404(client: httpx.Client, context: AppContext, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert "there is no experiment 'k3v9q2mz'" in answer.json()["detail"]


def test_a_stored_spec_beyond_a_later_bound_is_shown_and_says_why_it_does_not_run(
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
    assert "its spec cannot be run by this version" in shown["reason"]
    assert "early_stopping.asha.reduction_factor" in shown["reason"]
    assert {one["id"] for one in client.get(EXPERIMENTS).json()["items"]} >= {old, other}


def test_a_stored_goal_that_no_trial_can_reach_does_not_stand_in_the_way(
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
    assert client.post(asked, json={}).json()["errors"][0]["field"] == "objective"
    assert client.post(asked, json={"objective": {"goal": 0.95}}).status_code == 201


def test_controls_that_cannot_be_read_are_told(client: httpx.Client, world: World, context: AppContext) -> None:
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
    assert (view["state"], "stays complete: the controls of" in view["reason"]) == ("COMPLETED", True)


def test_a_patch_may_hold_null_where_there_is_a_default(client: httpx.Client) -> None:
    document = client.get("/api/v1/openapi.json").json()
    fields = document["components"]["schemas"]["ControlsPatch"]["properties"]
    nullable = {name for name, field in fields.items() if {"type": "null"} in field.get("anyOf", ())}
    assert set(fields) - nullable == {"num_samples"}


def test_the_spec_of_a_trial_is_what_was_drawn(client: httpx.Client, world: World) -> None:
    space = {"optimizer": {"kind": "adam", "lr": {"loguniform": [1e-4, 1e-1]}}, "batch_size": {"choice": [64, 128]}}
    one = world.started(search_space=space, searcher={"kind": "random", "num_samples": 3}, seed=5)
    sample = {"optimizer.lr": 0.0123456789012345, "batch_size": 1}
    lines = [world.line(0), world.line(1, sample=sample), world.line(2, sample={"batch_size": 0})]
    assert world.beat(one, {"phase": "searching", "trials": lines}).status_code == 200
    assert world.beat(one, {"phase": "searching", "trials": [world.line(1, epoch=2)]}).status_code == 200
    found = client.get(f"{EXPERIMENTS}/{one}/trials/1/spec").json()
    asked = ExperimentSpec.model_validate(world.show(one)["spec"])
    assert TrialSpec.model_validate(found) == asked.bind(sample, 1)
    assert found["hyperparameters"]["optimizer"]["lr"] == sample["optimizer.lr"]
    assert found["hyperparameters"]["batch_size"] == 128
    for trial, said in ((0, "not recorded"), (2, "optimizer.lr: missing"), (7, "has not begun")):
        missing = client.get(f"{EXPERIMENTS}/{one}/trials/{trial}/spec")
        assert missing.status_code == 404
        assert said in missing.json()["detail"]


def test_the_spec_of_a_trial_is_what_its_folder_keeps(client: httpx.Client, world: World, context: AppContext) -> None:
    one = world.started(searcher={"kind": "random", "num_samples": 3}, seed=5)
    world.beat(one, {"phase": "searching", "trials": [world.line(n, sample={}) for n in range(3)]})
    asked = ExperimentSpec.model_validate(world.show(one)["spec"])
    taken_over, drawn = asked.bind({}, 4), asked.bind({}, 0)
    assert taken_over.seed != drawn.seed
    for trial, kept in ((0, taken_over.model_dump_json().encode()), (1, b'{"seed": 1'), (2, b"\xff")):
        folder = context.files(one).folder / "trials" / f"{trial:05d}"
        folder.mkdir(parents=True)
        (folder / "spec.json").write_bytes(kept)
    found = [client.get(f"{EXPERIMENTS}/{one}/trials/{trial}/spec").json() for trial in range(3)]
    assert [TrialSpec.model_validate(spec) for spec in found] == [taken_over, asked.bind({}, 1), asked.bind({}, 2)]
