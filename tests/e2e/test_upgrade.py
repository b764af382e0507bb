"""A home that version 0.1 wrote, on the stack of today: shown as before, reproduced, resumed and extended.

`stored/version-0.1-home.tar.xz` is that home, after `rung up` was stopped: the experiment `completed` has a registered
model, `paused` stopped in the middle of its second trial. `stored/version-0.1.json` has what version 0.1 answered.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import mlflow.pyfunc
import pytest
import torch
from mlflow import MlflowClient

from search_spaces.protocol import ENDED_TRIAL_STATES, METRICS
from service import stack
from service.client import Client
from service.contract.schemas import ExperimentView
from tests.support.mlflow_runs import assert_every_point_once, trial_runs

pytestmark = pytest.mark.e2e

STORED = Path(__file__).with_name("stored")
BEFORE: dict[str, dict[str, Any]] = json.loads((STORED / "version-0.1.json").read_text())
IDS: dict[str, str] = {name: stored["experiment"]["id"] for name, stored in BEFORE.items()}


def answers(up: stack.Stack, name: str) -> dict[str, Any]:
    """What the service answers now to the requests whose answers are stored."""
    path = f"/api/v1/experiments/{IDS[name]}"
    headers = {"Authorization": f"Bearer {stack.owner_token(up.home)}"}
    with httpx.Client(base_url=up.addresses.service, headers=headers, trust_env=False) as http:
        return {
            "experiment": http.get(path).json(),
            "trials": [http.get(f"{path}/trials/{trial['trial']}").json() for trial in BEFORE[name]["trials"]],
            "curves": [http.get(f"{path}/trials/{one['trial']}/curves").json() for one in BEFORE[name]["curves"]],
        }


@pytest.fixture(scope="module")
def shown(up: stack.Stack) -> dict[str, dict[str, Any]]:
    """What is shown after the upgrade, before anything runs."""
    return {name: answers(up, name) for name in IDS}


@pytest.fixture(scope="module")
def ended(client: Client, shown: dict[str, dict[str, Any]]) -> dict[str, ExperimentView]:
    """The experiments after `paused` was resumed and `completed` got one more trial, side by side."""
    client.resume(IDS["paused"])
    client.change(IDS["completed"], num_samples=shown["completed"]["experiment"]["num_samples"] + 1)
    return {name: client.wait(experiment_id, interval_s=0.1) for name, experiment_id in IDS.items()}


@pytest.mark.parametrize("name", IDS)
def test_experiments_are_shown_with_the_same_figures(shown: dict[str, dict[str, Any]], name: str) -> None:
    before = {part: BEFORE[name][part] for part in shown[name]}
    assert _same_fields(shown[name], before) == before


def test_a_registered_model_predicts_what_it_predicted(up: stack.Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", sys.path[:])  # MLflow adds the code packed with a model
    stored = BEFORE["completed"]
    size = stored["predicted"]["size"]
    images = (torch.arange(2 * size * size) * 37 % 256).to(torch.uint8).reshape(2, 1, size, size)
    mlflow.set_tracking_uri(up.addresses.mlflow)
    logits = mlflow.pyfunc.load_model(stored["experiment"]["winner"]["model_uri"]).predict(images.numpy())
    expected = torch.tensor(stored["predicted"]["logits"])
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit.load`:FutureWarning")
def test_a_registered_model_without_a_digest_is_exported_on_request_only(up: stack.Stack, tmp_path: Path) -> None:
    """It is a pickle, which could run anything."""
    command = [sys.executable, "-c", "from service.cli import main; main()"]
    out = tmp_path / "model.ts"
    export = [*command, "export", IDS["completed"], "--format", "torchscript", "-o", str(out)]
    environment = os.environ | {"RUNG_URL": up.addresses.service, "RUNG_HOME": str(up.home)}
    refused = subprocess.run(export, env=environment, capture_output=True, text=True, timeout=120)
    assert (refused.returncode, "recorded no digest" in refused.stderr) == (2, True), refused.stderr
    done = subprocess.run([*export, "--unverified"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    stored = BEFORE["completed"]["predicted"]
    size = stored["size"]
    images = (torch.arange(2 * size * size) * 37 % 256).to(torch.uint8).reshape(2, 1, size, size)
    logits = torch.jit.load(str(out))(images)
    torch.testing.assert_close(logits, torch.tensor(stored["logits"]), rtol=1e-4, atol=1e-5)


def test_reproduce_reports_that_an_earlier_version_recorded_the_trial(up: stack.Stack) -> None:
    command = [sys.executable, "-c", "from service.cli import main; main()", "reproduce", IDS["paused"], "0"]
    environment = os.environ | {"RUNG_URL": up.addresses.service, "RUNG_HOME": str(up.home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert "this trial was recorded by an earlier version" in done.stdout, done.stderr
    assert done.returncode in {0, 1}, "augmentations are drawn in another way, so the curve may differ"


@pytest.mark.parametrize("name", IDS)
def test_interrupted_and_extended_experiments_complete(
    up: stack.Stack, client: Client, mlflow: MlflowClient, ended: dict[str, ExperimentView], name: str
) -> None:
    view, before = ended[name], BEFORE[name]
    assert (view.state, view.reason) == ("COMPLETED", "")
    trials = list(client.trials(view.id, sort="trial"))
    assert len(trials) == view.num_samples > len(before["trials"])
    assert {trial.state for trial in trials} <= ENDED_TRIAL_STATES - {"ERROR", "CANCELED"}
    assert view.winner is not None
    runs = trial_runs(mlflow, view)
    assert {number: run.info.run_id for number, run in runs.items()} == {t.trial: t.mlflow_run_id for t in trials}
    earlier = {trial["trial"] for trial in before["trials"]}
    recorded = set(METRICS) & set(before["curves"][0]["metrics"])
    assert len(recorded) == 9
    for trial in trials:
        assert_every_point_once(mlflow, trial, recorded if trial.trial in earlier else METRICS)
    for now, stored in zip(answers(up, name)["curves"], before["curves"], strict=True):
        begin = {metric: now["metrics"][metric][: len(points)] for metric, points in stored["metrics"].items()}
        assert begin == stored["metrics"], "epochs that version 0.1 recorded have changed"


def _same_fields(now: Any, before: Any) -> Any:
    """`now` without the fields that version 0.1 did not have."""
    if isinstance(before, dict):
        return {name: _same_fields(now.get(name), value) for name, value in before.items()}
    if isinstance(before, list) and len(before) == len(now):
        return [_same_fields(one, other) for one, other in zip(now, before, strict=True)]
    return now
