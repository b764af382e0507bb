"""`rung compare` and `Client.compare`: what differs between experiments, and the links to MLflow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from click.testing import Result
from typer.testing import CliRunner

from search_spaces.replicates import is_replicate, replicate_number
from service.cli import app
from service.client import Client
from service.contract.comparison import MOST_CURVES
from service.contract.errors import NotFoundError, ValidationFailedError
from tests.support.world import World

Run = Callable[..., Result]
SPACE = {"optimizer": {"kind": "adam", "lr": {"loguniform": [0.001, 0.1]}}, "batch_size": {"choice": [32, 64]}}
WIDER = {"optimizer": {"kind": "sgd", "lr": {"loguniform": [0.001, 1.0]}}, "batch_size": 32}


@pytest.fixture
def run(client: httpx.Client, tmp_path: Path) -> Run:
    environment = {"RUNG_URL": str(client.base_url), "RUNG_HOME": str(tmp_path), "COLUMNS": "160"}
    return lambda *arguments: CliRunner(env=environment).invoke(app, arguments)


@pytest.fixture
def two(world: World) -> tuple[str, str]:
    """An experiment that has completed, and one of the same project that runs, with other domains."""
    first = world.started(search_space=SPACE, name="narrow", max_epochs=8)
    second = world.started(search_space=WIDER, name="wide")
    parameters = {"optimizer.kind": "adam", "optimizer.lr": 0.0123, "batch_size": 64, "model.kind": "cnn"}
    lines = [
        world.line(
            number,
            state="COMPLETED",
            epoch=8,
            best_value=value,
            best_epoch=6,
            parameters=parameters,
            mlflow_run_id=f"a{number}",
        )
        for number, value in enumerate((0.8, 0.9, *[0.1] * MOST_CURVES))
    ]
    winner = {"trial": 1, "value": 0.9, "test_accuracy": 0.875, "test_loss": 0.1, "model_uri": "models:/x/1"}
    runs = {"mlflow_experiment_id": "7", "mlflow_run_id": "parent-a"}
    world.beat(first, {"phase": "completed", "trials": lines, "winner": winner, **runs})
    line = world.line(0, best_value=0.7, best_epoch=1, parameters=parameters | {"optimizer.kind": "sgd"})
    line["mlflow_run_id"] = "b0"
    world.beat(second, {"phase": "searching", "trials": [line], **runs, "mlflow_run_id": "parent-b"})
    return first, second


def query(url: str | None) -> dict[str, Any]:
    return {name: values[0] for name, values in parse_qs(urlsplit(str(url)).fragment.partition("?")[2]).items()}


def test_results_differences_and_links(run: Run, two: tuple[str, str]) -> None:
    answer = json.loads(run("compare", *two, "--json").stdout)
    narrow, wide = answer["experiments"]
    assert (narrow["name"], narrow["state"], narrow["trials"]) == ("narrow", "COMPLETED", {"COMPLETED": 12})
    assert (narrow["best_trial"], narrow["best_value"], narrow["best_epoch"]) == (1, 0.9, 6)
    assert (narrow["test_accuracy"], wide["test_accuracy"]) == (0.875, None)
    searched = {"optimizer.lr": 0.0123, "batch_size": 64}
    assert (narrow["best_parameters"], wide["best_parameters"]) == (searched, searched)
    differences = {one["name"]: one["values"] for one in answer["differences"]}
    assert differences.pop("search_space.optimizer.lr") == ["loguniform(0.001, 0.1)", "loguniform(0.001, 1.0)"]
    assert differences.pop("search_space.batch_size") == ["choice(32, 64)", "32"]
    assert differences.pop("search_space.optimizer.kind") == ["adam", "sgd"]
    assert differences.pop("max_epochs") == ["8", "20"]
    assert differences.pop("search_space.optimizer.beta1") == ["0.9", None]
    assert {name for name in differences if not name.startswith("search_space.optimizer.")} == set()
    assert query(answer["mlflow_url"]) == {"runs": '["parent-a","parent-b"]', "experiments": '["7"]'}
    charts = query(answer["mlflow_charts_url"])
    assert charts["searchFilter"] == "attributes.run_id IN ('a1', 'a0', 'a2', 'a3', 'a4', 'b0')"
    assert charts["orderByKey"] == "metrics.`best_validation_accuracy`"


def test_the_tables_have_a_column_for_each_experiment(run: Run, two: tuple[str, str]) -> None:
    result = run("compare", *two)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    for row in (
        ["result", *two],
        ["name", "narrow", "wide"],
        ["validation_accuracy", "0.9", "0.7"],
        ["test", "accuracy", "0.875", "-"],
        ["optimizer.lr", "0.0123", "0.0123"],
        ["spec", *two],
        ["max_epochs", "8", "20"],
    ):
        assert row in lines
    assert any(line[:1] == ["charts"] and "compareRunsMode=CHART" in line[1] for line in lines)


def test_what_is_beside_the_test_accuracy_is_of_the_trial_that_fresh_seeds_chose(world: World, run: Run) -> None:
    one, other = world.started(search_space=SPACE, name="seeds"), world.started(search_space=SPACE)
    by_trial = {
        0: (0.9, 0.01),
        1: (0.8, 0.05),
        replicate_number(0, 0): (0.7, 0.01),
        replicate_number(1, 0): (0.85, 0.05),
    }
    lines = [
        world.line(
            number,
            state="COMPLETED",
            best_value=value,
            best_epoch=7 if is_replicate(number) else 3,
            parameters={"optimizer.lr": rate},
        )
        for number, (value, rate) in by_trial.items()
    ]
    chosen = replicate_number(1, 0)
    winner = {"trial": chosen, "value": 0.85, "test_accuracy": 0.875, "test_loss": 0.1}
    world.beat(one, {"phase": "completed", "trials": lines, "winner": winner})
    answer = json.loads(run("compare", one, other, "--json").stdout)["experiments"][0]
    assert (answer["winner_trial"], answer["winner_run"], answer["winner_value"]) == (1, chosen, 0.85)
    assert (answer["winner_epoch"], answer["winner_parameters"]) == (7, {"optimizer.lr": 0.05})
    assert (answer["best_trial"], answer["best_value"], answer["best_epoch"]) == (0, 0.9, 3)
    rows = [line.split() for line in run("compare", one, other).stdout.splitlines()]
    for row in (
        ["validation_accuracy", "0.85", "-"],
        ["test", "accuracy", "0.875", "-"],
        ["winner", "1", "-"],
        ["best", "epoch", "7", "-"],
        ["optimizer.lr", "0.05", "-"],
        ["best", "trial", "of", "the", "search", "0", "(0.9)", "-"],
    ):
        assert row in rows
    shown = run("show", one).stdout
    assert "  best      trial 0, validation_accuracy 0.9\n" in shown
    by_seeds = "trial 1 by the mean over its fresh seeds; registered is seed 0, validation_accuracy 0.85"
    assert f"  winner    {by_seeds}\n" in shown


def test_a_better_trial_that_was_found_after_the_winner_is_not_shown_with_its_test_accuracy(
    world: World, run: Run
) -> None:
    one, other = world.started(search_space=SPACE), world.started(search_space=SPACE)
    winner = {"trial": 0, "value": 0.5, "test_accuracy": 0.875, "test_loss": 0.1}
    world.beat(one, {"phase": "completed", "trials": [world.line(0, best_value=0.5)], "winner": winner})
    world.patch(one, num_samples=60)
    world.reconciler.reconcile_once()
    world.beat(one, {"phase": "searching", "trials": [world.line(1, best_value=0.7)]}, attempt=2)
    rows = [line.split() for line in run("compare", one, other).stdout.splitlines()]
    assert ["validation_accuracy", "0.5", "-"] in rows
    assert ["winner", "0", "-"] in rows
    assert "  winner    trial 0, validation_accuracy 0.5\n" in run("show", one).stdout


def test_a_changed_control_is_compared_as_it_is_now(world: World, run: Run) -> None:
    first, second = (world.submit(search_space=SPACE) for _ in range(2))
    assert json.loads(run("compare", first, second, "--json").stdout)["differences"] == []
    world.client.patch(
        f"/api/v1/experiments/{first}",
        json={"priority": 5, "num_samples": 77},
        headers={"Content-Type": "application/merge-patch+json"},
    ).raise_for_status()
    answer = json.loads(run("compare", first, second, "--json").stdout)
    defaults = world.show(second)["controls"]
    assert {one["name"]: one["values"] for one in answer["differences"]} == {
        "controls.priority": ["5", "0"],
        "controls.num_samples": ["77", str(defaults["num_samples"])],
    }
    assert (answer["mlflow_url"], answer["mlflow_charts_url"]) == (None, None)


def test_experiments_of_different_projects_and_objectives(world: World, client: httpx.Client) -> None:
    accuracy, loss = world.started(), world.started(objective={"metric": "validation_loss"})
    other = world.started(project="other")
    for one, home in ((accuracy, "7"), (loss, "7"), (other, "8")):
        line = world.line(0, best_value=0.5, mlflow_run_id=f"trial-{one}")
        world.beat(one, {"phase": "searching", "trials": [line], "mlflow_experiment_id": home, "mlflow_run_id": one})
    with Client(str(client.base_url)) as rung:
        mixed = rung.compare(accuracy, loss)
        assert [one.metric for one in mixed.experiments] == ["validation_accuracy", "validation_loss"]
        assert (mixed.mlflow_url is None, mixed.mlflow_charts_url) == (False, None)
        apart = rung.compare(accuracy, other)
        assert query(apart.mlflow_url)["experiments"] == '["7","8"]'
        assert "/#/compare-experiments/s?" in str(apart.mlflow_charts_url)
        assert query(apart.mlflow_charts_url)["experiments"] == '["7","8"]'


@pytest.mark.parametrize("count", [0, 1, 11])
def test_two_to_ten_different_experiments_are_compared(
    world: World, client: httpx.Client, run: Run, count: int
) -> None:
    with Client(str(client.base_url)) as rung:
        with pytest.raises(ValidationFailedError, match="must be 2 to 10 different ids"):
            rung.compare(*(f"x{number}" for number in range(count)))
        with pytest.raises(NotFoundError):
            rung.compare("nothing", "here")
    one = world.submit()
    result = run("compare", one, one)
    assert result.exit_code == 2
    assert result.stderr.startswith("experiment_ids: must be 2 to 10 different ids")


def test_the_route_answers_what_the_sdk_returns(world: World, client: httpx.Client, two: tuple[str, str]) -> None:
    answer = world.client.get("/api/v1/compare", params={"id": list(two)})
    with Client(str(client.base_url)) as rung:
        assert answer.json() == rung.compare(*two).model_dump(mode="json")
    assert "etag" not in answer.headers


@pytest.mark.parametrize(
    ("ids", "field"),
    [([], "id"), (["a"], "id"), (["a", "a"], "id"), ([str(number) for number in range(11)], "id")],
)
def test_the_route_takes_two_to_ten_different_ids(world: World, ids: list[str], field: str) -> None:
    answer = world.client.get("/api/v1/compare", params={"id": ids})
    assert answer.status_code == 422
    assert [problem["field"] for problem in answer.json()["errors"]] == [field]


def test_the_route_does_not_find_an_experiment_that_does_not_exist(world: World, two: tuple[str, str]) -> None:
    assert world.client.get("/api/v1/compare", params={"id": [two[0], "aaaaaaaa"]}).status_code == 404
