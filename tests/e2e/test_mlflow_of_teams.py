"""Two teams on one Ray, with an MLflow in which each has a workspace: each finds its own search there, and no other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from search_spaces.mlflow_view import TAG_PREFIX
from service import stack
from service.cli import local_process
from service.client import Client
from service.contract.schemas import ExperimentView
from tests.support.team_mlflow import TeamMlflow, team_mlflow

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1800)]

TIMEOUT_S = 600.0
SPEC: dict[str, Any] = {
    "name": "tiny",
    "project": "shared-name",
    "dataset": {"name": "digits"},
    "search_space": {"model": {"kind": "cnn", "width": 4, "depth": 1}, "batch_size": 64},
    "searcher": {"kind": "random", "num_samples": 1},
    "max_epochs": 1,
    "early_stopping": "none",
    "resources": {"gpus_per_trial": 0},
}
#: What a person runs who has nothing of Rung except a token.
LOAD = """
import sys, mlflow, numpy
model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict(numpy.zeros((2, 1, 8, 8), "uint8")).shape)
"""


@pytest.fixture
def teams(up: stack.Stack, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service of teams that uses the Ray of the stack."""
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", (up.home / "ray_token").read_text().strip())
    settings: dict[str, Any] = {
        "reconcile": True,
        "reconcile_s": 0.5,
        "heartbeat_s": 0.5,
        "ray_dashboard_url": up.addresses.ray_dashboard,
        "data_root": data_root,
    }
    with team_mlflow(tmp_path, in_own_process=True, **settings) as made:
        yield made


@pytest.fixture
def clients(teams: TeamMlflow) -> Iterator[dict[str, Client]]:
    """One of a member of each team, by the name of the team."""
    with ExitStack() as opened:
        found = {}
        for team, person in (("vision", "alice"), ("speech", "bob")):
            teams.accounts.team(team)
            token = teams.accounts.person(person, False, **{team: "member"})
            found[team] = opened.enter_context(Client(teams.service, token))
            teams.credentials[team] = (person, found[team].credential.token)
        yield found


def test_each_team_finds_its_own_search_and_a_model_loads_with_ones_own_token(
    teams: TeamMlflow, clients: dict[str, Client], tmp_path: Path
) -> None:
    views = {team: client.submit(SPEC) for team, client in clients.items()}
    for team, client in clients.items():
        views[team] = client.wait(views[team].id, timeout_s=TIMEOUT_S)
        assert views[team].state == "COMPLETED", views[team].reason
    for team, other in (("vision", "speech"), ("speech", "vision")):
        check_workspace(teams, team, views[team], views[other])
        assert clients[team].curves(views[team].id, 0).metrics, "the service reads the curves of the workspace"
        out = tmp_path / team
        token = clients[team].credential.token
        assert local_process.verify_model(views[team], "", out, token)["verified"]
        assert predicts(teams.url, views[team], team, token) == "(2, 10)"
    mixed = predicts(teams.url, views["speech"], "speech", clients["vision"].credential.token)
    assert "Permission denied" in mixed, "a token opens no model of another team"
    delete(clients["vision"], views["vision"].id)
    runs = search_runs(teams, "vision", views["vision"])
    assert (runs, len(search_runs(teams, "speech", views["speech"]))) == ([], 2)


def check_workspace(teams: TeamMlflow, team: str, own: ExperimentView, others: ExperimentView) -> None:
    assert (own.mlflow_workspace, own.team) == (team, team)
    assert own.mlflow_url
    assert own.mlflow_url.endswith(f"/runs/{own.mlflow_run_id}?workspace={team}")
    assert own.mlflow_view_url
    assert f"workspace={team}" in own.mlflow_view_url
    runs = {run["info"]["run_id"]: run for run in search_runs(teams, team, own)}
    assert len(runs) == 2, "the search and its trial"
    tags = {tag["key"]: tag["value"] for tag in runs[str(own.mlflow_run_id)]["data"]["tags"]}
    assert f"workspace={team})" in tags["mlflow.note.content"]
    assert search_runs(teams, team, others) == []
    of_other = teams.ask(team, "GET", f"/api/2.0/mlflow/runs/get?run_id={others.mlflow_run_id}", team)
    assert of_other.status_code == 403
    path = f"/api/2.0/mlflow/experiments/get?experiment_id={own.mlflow_experiment_id}"
    experiment = teams.ask(team, "GET", path, team).json()["experiment"]
    assert experiment["name"] == "shared-name"
    assert any(tag["key"].startswith(TAG_PREFIX) for tag in experiment["tags"])


def search_runs(teams: TeamMlflow, team: str, view: ExperimentView) -> list[Any]:
    body = {"experiment_ids": [view.mlflow_experiment_id]}
    found: list[Any] = teams.ask(team, "POST", "/api/2.0/mlflow/runs/search", team, json=body).json().get("runs", [])
    return found


def predicts(url: str, view: ExperimentView, workspace: str, token: str) -> str:
    """What a person gets who loads the model with MLflow's own client."""
    assert view.winner
    variables = {"MLFLOW_TRACKING_URI": url, "MLFLOW_TRACKING_TOKEN": token, "MLFLOW_WORKSPACE": workspace}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, view.winner["model_uri"]],
        env={**os.environ, **variables, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout.strip() or done.stderr


def delete(client: Client, experiment_id: str) -> None:
    """Delete an experiment and wait until it is gone."""
    client.delete(experiment_id)
    deadline = time.monotonic() + TIMEOUT_S
    while any(one.id == experiment_id for one in client.list()):
        assert time.monotonic() < deadline, client.get(experiment_id).reason
        time.sleep(0.5)
