"""The prepared page of MLflow: what it shows, and that it stays small however large the search space is."""

from __future__ import annotations

import json

import pytest

from search_spaces.mlflow_view import (
    charts_path,
    comparison_path,
    read_view,
    run_path,
    trials_of,
    view_key,
    view_path,
    view_tag,
)
from search_spaces.objective import Objective

SEARCHED = ["optimizer.kind", "optimizer.lr", "batch_size"]


@pytest.mark.parametrize(
    ("metric", "ascending"), [("validation_accuracy", False), ("validation_loss", True)], ids=["accuracy", "loss"]
)
def test_a_view_shows_the_trials_of_one_experiment_the_best_first(metric: str, ascending: bool) -> None:
    tag = view_tag("digits (abc)", trials_of("f" * 32), Objective.model_validate({"metric": metric}), SEARCHED, 7)
    assert {name: json.loads(tag)[name] for name in ("name", "createdAt")} == {"name": "digits (abc)", "createdAt": 7}
    view = read_view(tag)
    assert view["searchFilter"] == f"tags.`mlflow.parentRunId` = '{'f' * 32}'"
    assert (view["orderByKey"], view["orderByAsc"]) == (f"metrics.`best_{metric}`", ascending)
    assert view["selectedColumns"] == [
        f"metrics.`best_{metric}`",
        "params.`optimizer.kind`",
        "params.`optimizer.lr`",
        "params.`batch_size`",
        "tags.`rung.trial_state`",
        "tags.`rung.stop_reason`",
        "metrics.`best_epoch`",
    ]
    charts = view["compareRunCharts"]
    assert (charts[0]["type"], charts[0]["metricKey"]) == ("LINE", metric)
    (parallel,) = (chart for chart in charts if chart["type"] == "PARALLEL")
    assert (parallel["selectedParams"], parallel["selectedMetrics"]) == (SEARCHED, [f"best_{metric}"])
    scatters = [(chart["xaxis"], chart["yaxis"]) for chart in charts if chart["type"] == "SCATTER"]
    y = {"key": f"best_{metric}", "type": "METRIC"}
    assert scatters == [({"key": name, "type": "PARAM"}, y) for name in SEARCHED]
    assert {chart["metricSectionId"] for chart in charts} <= {one["uuid"] for one in view["compareRunSections"]}
    assert len({chart["uuid"] for chart in charts}) == len(charts)


def test_a_view_of_a_large_space_fits_into_a_tag() -> None:
    """MLflow takes 20,000 characters, and reads the tags of all views with its experiment."""
    searched = [f"model.arguments.a_long_name_of_a_hyperparameter_{number}" for number in range(10_000)]
    assert len(view_tag("n" * 140, trials_of("f" * 32), Objective(), searched, 7)) < 3000


def test_a_view_of_a_space_without_domains_has_no_axes() -> None:
    view = read_view(view_tag("fixed", trials_of("f" * 32), Objective(), [], 7))
    assert {chart["type"] for chart in view["compareRunCharts"]} == {"LINE", "BAR"}


def test_addresses_open_in_the_workspace_of_the_experiment() -> None:
    assert run_path("7", "r") == "/#/experiments/7/runs/r"
    assert run_path("7", "r", "vision") == "/#/experiments/7/runs/r?workspace=vision"
    paths = (
        view_path("7", "k", "vision"),
        comparison_path(["7"], ["r"], "vision"),
        charts_path(["7"], ["r"], Objective(), "vision"),
        charts_path(["7", "8"], ["r"], Objective(), "vision"),
    )
    for path in paths:
        assert "workspace=vision" in path.partition("?")[2].split("&")


def test_the_address_of_a_view_follows_from_the_experiment() -> None:
    assert view_path("7", view_key("abc")) == "/#/experiments/7/runs?viewStateShareKey=rung-abc&compareRunsMode=CHART"
