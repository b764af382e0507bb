"""The main use of Rung on real processes: submit a spec; get curves, stop reasons and a registered model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from search_spaces.datasets import Digits
from search_spaces.protocol import ENDED_TRIAL_STATES
from search_spaces.replicates import replicated
from service import stack
from service.client import Client
from service.contract.schemas import ExperimentView, TrialView
from tests.support.mlflow_runs import assert_every_point_once, trial_runs
from tests.support.odd_pictures import save_odd_classes
from tests.support.packed_models import COUNT_CORRECT
from workers.data.splits import load

pytestmark = pytest.mark.e2e

NETWORK = {"model": {"kind": "cnn", "width": 8, "depth": 2}, "batch_size": 128}
SEARCHED = {
    "optimizer": {
        "choice": [
            {"kind": "adam", "lr": {"loguniform": [1e-4, 3e-2]}},
            {"kind": "sgd", "lr": {"loguniform": [1e-3, 0.3]}, "momentum": {"choice": [0.0, 0.9]}},
        ]
    },
    "normalization": {"choice": ["batch", "layer", "none"]},
}
LONG: dict[str, Any] = {"max_epochs": 5000, "early_stopping": "none"}


def spec(name: str, *, trials: int = 4, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "project": "e2e",
        "search_space": NETWORK | SEARCHED,
        "searcher": {"kind": "random", "num_samples": trials},
        "max_epochs": 4,
        "early_stopping": {"kind": "asha", "grace_period": 1, "reduction_factor": 2},
        "seed": 3,
    } | changes


def ended(client: Client, experiment_id: str) -> ExperimentView:
    return client.wait(experiment_id, interval_s=0.1)


@pytest.fixture(scope="module")
def view(client: Client) -> ExperimentView:
    return ended(client, client.submit(spec("main-job", trials=10, finalists={"trials": 2, "seeds": 1})).id)


@pytest.fixture(scope="module")
def trials(client: Client, view: ExperimentView) -> list[TrialView]:
    return list(client.trials(view.id))


def test_every_trial_ends_with_a_reason(view: ExperimentView, trials: list[TrialView]) -> None:
    assert (view.state, view.reason) == ("COMPLETED", "")
    assert sorted(trial.trial for trial in trials) == list(range(10))
    assert all(trial.state in ENDED_TRIAL_STATES and trial.stop_reason for trial in trials)
    assert sum(view.trials.values()) == 10


def test_asha_stops_only_at_its_rungs(trials: list[TrialView]) -> None:
    rungs = {1, 2}  # of a grace period of 1, a reduction factor of 2 and 4 epochs
    epochs = {trial.epoch for trial in trials if trial.state == "EARLY_STOPPED"}
    assert epochs
    assert epochs <= rungs
    assert all(trial.epoch == 4 for trial in trials if trial.state == "COMPLETED")


def test_trials_are_child_runs_with_the_same_parameter_names(
    mlflow: MlflowClient, view: ExperimentView, trials: list[TrialView]
) -> None:
    runs = trial_runs(mlflow, view)
    assert sorted(runs) == list(range(10))
    assert len({frozenset(run.data.params) for run in runs.values()}) == 1
    for trial in trials:
        run = runs[trial.trial]
        assert run.data.tags["rung.experiment_id"] == view.id
        assert run.data.tags["rung.trial_state"] == trial.state
        assert run.data.tags["rung.stop_reason"] == trial.stop_reason
        assert run.info.status == "FINISHED"
        assert run.data.params == {name: str(value) for name, value in trial.parameters.items()}


def test_every_point_of_every_curve_once(mlflow: MlflowClient, trials: list[TrialView]) -> None:
    for trial in trials:
        assert_every_point_once(mlflow, trial)


def test_curves_of_the_api_equal_those_in_mlflow(
    client: Client, mlflow: MlflowClient, view: ExperimentView, trials: list[TrialView]
) -> None:
    run = trial_runs(mlflow, view)[trials[0].trial]
    curves = client.curves(view.id, trials[0].trial).metrics
    stored = mlflow.get_metric_history(run.info.run_id, "validation_accuracy")
    assert [point.value for point in curves["validation_accuracy"]] == [point.value for point in stored]


def test_parent_run_holds_the_summary(mlflow: MlflowClient, view: ExperimentView) -> None:
    parent = mlflow.get_run(str(view.mlflow_run_id))
    assert view.best is not None
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["rung.best_trial"] == str(view.best.trial)
    assert parent.data.metrics["best_value"] == view.best.value
    counts = {name: parent.data.metrics.get(f"trials_{name.lower()}", 0) for name in view.trials}
    assert counts == {name: float(count) for name, count in view.trials.items()}


def test_what_is_known_of_the_data_is_on_the_parent_run(
    client: Client, mlflow: MlflowClient, view: ExperimentView
) -> None:
    known = client.data(view.id)
    assert (known.name, known.images("test")) == ("digits", 359)
    assert view.mlflow_run_id is not None
    assert [file.path for file in mlflow.list_artifacts(view.mlflow_run_id, "data")] == ["data/dataset.json"]


def test_why_the_winner_won_is_known_and_on_the_parent_run(
    client: Client, mlflow: MlflowClient, view: ExperimentView
) -> None:
    assert view.best is not None
    assert view.winner is not None
    choice = (insight := client.insight(view.id)).choice
    assert (choice.run, choice.value) == (view.winner["trial"], view.winner["value"])
    assert choice.trial == replicated(view.winner["trial"])[0]
    assert (choice.best_of_search or choice.trial) == view.best.trial
    assert (insight.sureness.compared, insight.sureness.test_images, insight.sureness.notes) == (10, 359, [])
    assert view.mlflow_run_id is not None
    logged = [file.path for file in mlflow.list_artifacts(view.mlflow_run_id, "insight")]
    assert "insight/insight.json" in logged


def test_the_finalists_are_trained_again_and_the_better_one_is_registered(
    client: Client, mlflow: MlflowClient, view: ExperimentView
) -> None:
    runs = list(client.trials(view.id, replicates=True))
    assert [(run.state, run.epoch) for run in runs] == [("COMPLETED", 4)] * 2
    assert view.winner is not None
    best = max(runs, key=lambda run: run.best_value or 0.0)
    assert view.winner["trial"] == best.trial
    replication = client.insight(view.id).replication
    assert replication is not None
    assert (replication.chosen, replication.finalists[0].runs) == (replicated(best.trial)[0], [best.trial])
    assert {one.trial for one in replication.finalists} == {replicated(run.trial)[0] for run in runs}
    run = mlflow.get_run(str(best.mlflow_run_id))
    assert (run.data.tags["rung.role"], run.info.status) == ("replicate", "FINISHED")
    assert client.trial_spec(view.id, best.trial).seed != client.trial_spec(view.id, replication.chosen).seed


def test_registered_model_predicts_raw_images(up: stack.Stack, view: ExperimentView, tmp_path: Path) -> None:
    assert view.winner is not None
    images, labels = load(Digits(), 0, tmp_path, tmp_path).test()
    mlflow.set_tracking_uri(up.addresses.mlflow)
    plain = mlflow.pyfunc.load_model(view.winner["model_uri"])
    predicted = np.argmax(plain.predict(images.numpy()), axis=1)
    assert (predicted == labels.numpy()).mean() == pytest.approx(view.winner["test_accuracy"])
    network = plain.get_raw_model()
    with torch.inference_mode():
        assert torch.equal(network(images).argmax(1), torch.from_numpy(predicted))


def test_the_registered_model_is_what_rung_packed(up: stack.Stack, view: ExperimentView) -> None:
    assert view.winner is not None
    environment = os.environ | {"RUNG_URL": up.addresses.service, "RUNG_HOME": str(up.home)}
    command = [sys.executable, "-c", "from service.cli import main; main()", "model", "verify", view.id, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["verified"], answer["model_uri"]) == (True, view.winner["model_uri"])


def test_another_process_reproduces_the_test_accuracy_from_the_files(
    up: stack.Stack, client: Client, data_root: Path, tmp_path: Path
) -> None:
    """To the last image, by the registered model without Rung. The images are of as many kinds as people have."""
    photos = data_root / "photos"
    save_odd_classes(photos / "train", 70, seed=1)
    images = save_odd_classes(photos / "test", 40, seed=2)
    changes = {
        "dataset": {"name": "image_folder", "path": "photos", "size": 16, "color": "gray"},
        "search_space": NETWORK | {"batch_size": 16, "optimizer": {"kind": "adam", "lr": 0.01}},
    }
    view = ended(client, client.submit(spec("photos", trials=1, early_stopping="none", **changes)).id)
    assert view.winner is not None, view.reason
    command = [sys.executable, "-I", "-c", COUNT_CORRECT, str(photos / "test"), view.winner["model_uri"]]
    environment = os.environ | {"MLFLOW_TRACKING_URI": up.addresses.mlflow}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    correct, found = map(int, done.stdout.split())
    assert (found, client.data(view.id).images("test")) == (images, images)
    assert view.winner["test_accuracy"] == correct / images
    assert images / 2 < correct < images, "the test would not see a difference"


@pytest.fixture(scope="module")
def side_by_side(client: Client) -> dict[str, str]:
    """Ids of experiments that are submitted at once: each gets one of the two slots."""
    return {
        "goal": client.submit(spec("goal", **LONG, objective={"goal": 0.5})).id,
        "no-data": client.submit(spec("no-data", trials=2, dataset="cifar10")).id,
    }


@pytest.mark.slow
def test_goal_ends_the_search(client: Client, mlflow: MlflowClient, side_by_side: dict[str, str]) -> None:
    view = ended(client, side_by_side["goal"])
    assert view.state == "COMPLETED"
    assert "goal 0.5 reached" in view.reason
    assert view.best is not None
    assert view.best.value >= 0.5
    assert view.winner is not None
    (reached,) = [trial for trial in client.trials(view.id) if trial.state == "COMPLETED"]
    assert (reached.trial, reached.stop_reason) == (view.best.trial, f"goal 0.5 reached at epoch {reached.epoch}")
    assert trial_runs(mlflow, view)[reached.trial].info.status == "FINISHED"


def test_a_missing_data_set_gives_a_readable_error(client: Client, side_by_side: dict[str, str]) -> None:
    view = ended(client, side_by_side["no-data"])
    assert view.state == "ERROR"
    assert "cifar10" in view.reason
    states = {trial.state for trial in client.trials(view.id)}
    assert "ERROR" in states
    assert states <= {"ERROR", "CANCELED"}, "the first trial that finds the defect ends the experiment"


@pytest.mark.slow
def test_two_experiments_share_the_slots_until_they_are_canceled(client: Client, mlflow: MlflowClient) -> None:
    first, second = (client.submit(spec(name, **LONG)) for name in ("sharing-a", "sharing-b"))
    seen: Counter[tuple[int, int]] = Counter()
    for view in client.watch(second.id, 0.1):
        other = client.get(first.id)
        seen[other.slots, view.slots] += 1
        if view.best and other.best:
            break
    assert client.get(first.id).slots + client.get(second.id).slots <= 2
    assert seen[1, 1]
    for one in (first, second):
        client.cancel(one.id)
    for one in (first, second):
        view = ended(client, one.id)
        assert view.state == "CANCELED"
        assert {trial.state for trial in client.trials(view.id)} == {"CANCELED"}
        assert mlflow.get_run(str(view.mlflow_run_id)).info.status == "KILLED"
        assert {run.info.status for run in trial_runs(mlflow, view).values()} == {"KILLED"}


def test_the_response_to_a_bad_spec_reports_the_field_and_its_value(up: stack.Stack) -> None:
    body = {"name": "x", "resources": {"gpus_per_trial": 3}}
    headers = {"Authorization": f"Bearer {stack.owner_token(up.home)}"}
    answer = httpx.post(f"{up.addresses.service}/api/v1/experiments", json=body, headers=headers, trust_env=False)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    (problem,) = answer.json()["errors"]
    assert problem["field"] == "resources.gpus_per_trial"
    assert problem["value"] == 3
