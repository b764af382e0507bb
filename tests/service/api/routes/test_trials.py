"""List and show trials; their specs and curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from search_spaces.experiment import ExperimentSpec, TrialSpec
from search_spaces.protocol import MAX_PARAMETER_CHARACTERS, MAX_TEXT
from service.context import AppContext
from service.domain.trials import MAX_PAGE_CHARACTERS
from tests.support.world import World

pytestmark = pytest.mark.stores

EXPERIMENTS = "/api/v1/experiments"


def test_trials_are_sorted_and_paged_with_those_without_a_value_last(client: httpx.Client, world: World) -> None:
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


def test_trials_with_long_hyperparameters_make_shorter_pages_and_no_huge_ones_are_stored(
    client: httpx.Client, world: World
) -> None:
    """An answer takes a bounded amount of memory, whatever a driver reported."""
    one = world.started()
    long = {f"model.arguments.p{number}": "x" * (MAX_TEXT - 100) for number in range(50)}
    for number in range(30):
        line = world.line(number, parameters=long)
        assert world.beat(one, {"phase": "searching", "trials": [line]}).status_code == 200
    path, cursor, pages = f"{EXPERIMENTS}/{one}/trials", {}, list[list[int]]()
    while True:
        answer = client.get(path, params={"limit": 1000, "sort": "trial", **cursor})
        assert len(answer.content) < 3 * MAX_PAGE_CHARACTERS
        pages.append([item["trial"] for item in answer.json()["items"]])
        if answer.json()["next_cursor"] is None:
            break
        cursor = {"cursor": answer.json()["next_cursor"]}
    assert len(pages) > 2
    assert [number for page in pages for number in page] == list(range(30))
    longer = long | {f"model.arguments.q{number}": "x" * MAX_TEXT for number in range(10)}
    refused = world.beat(one, {"phase": "searching", "trials": [world.line(30, parameters=longer)]})
    assert (refused.status_code, f"at most {MAX_PARAMETER_CHARACTERS} characters" in refused.text) == (422, True)


def test_curves_are_503_while_mlflow_is_unavailable(client: httpx.Client, world: World) -> None:
    one = world.submit()
    world.reconciler.reconcile_once()
    world.beat(one, {"phase": "searching", "trials": [world.line(0), world.line(1, mlflow_run_id="r1")]})
    without = client.get(f"{EXPERIMENTS}/{one}/trials/0/curves")
    assert without.status_code == 404
    assert without.json()["detail"] == f"trial 0 of experiment {one} has no curve yet"
    away = client.get(f"{EXPERIMENTS}/{one}/trials/1/curves")
    assert away.status_code == 503
    assert away.json()["detail"] == "MLflow is unavailable; the log of the service says why"


def test_the_spec_of_a_trial_is_bound_from_its_sample(client: httpx.Client, world: World) -> None:
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
    for trial, said in ((0, "never reported"), (2, "optimizer.lr: missing"), (7, "has not started")):
        missing = client.get(f"{EXPERIMENTS}/{one}/trials/{trial}/spec")
        assert missing.status_code == 404
        assert said in missing.json()["detail"]


def test_the_spec_of_a_trial_is_the_one_in_its_folder(client: httpx.Client, world: World, context: AppContext) -> None:
    one = world.started(searcher={"kind": "random", "num_samples": 3}, seed=5)
    world.beat(one, {"phase": "searching", "trials": [world.line(n, sample={}) for n in range(3)]})
    asked = ExperimentSpec.model_validate(world.show(one)["spec"])
    taken_over, drawn = asked.bind({}, 4), asked.bind({}, 0)
    assert taken_over.seed != drawn.seed
    for trial, kept in ((0, taken_over.model_dump_json().encode()), (1, b'{"seed": 1'), (2, b"\xff")):
        folder = Path(context.files(one).address) / "trials" / f"{trial:05d}"
        folder.mkdir(parents=True)
        (folder / "spec.json").write_bytes(kept)
    found = [client.get(f"{EXPERIMENTS}/{one}/trials/{trial}/spec").json() for trial in range(3)]
    assert [TrialSpec.model_validate(spec) for spec in found] == [taken_over, asked.bind({}, 1), asked.bind({}, 2)]
