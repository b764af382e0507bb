"""`rung queue` and `rung cluster`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.domain.cluster import Cluster, Node
from service.presentation.text import duration
from tests.support.accounts import Accounts, signed_in
from tests.support.world import World


@pytest.fixture
def runner(world: World, tmp_path: Path) -> CliRunner:
    return CliRunner(env={"RUNG_URL": str(world.client.base_url), "RUNG_HOME": str(tmp_path), "COLUMNS": "120"})


def test_the_queue_says_what_each_experiment_waits_for(world: World, runner: CliRunner) -> None:
    world.reconciler.reconcile_once()
    assert runner.invoke(app, ["queue"]).stdout == "no experiment waits\n"
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    world.started()
    two = world.submit(name="second", resources={"gpus_per_trial": 0})
    three = world.submit(name="third", resources={"gpus_per_trial": 0})
    world.reconciler.reconcile_once()
    shown = runner.invoke(app, ["queue", "--limit", "1"])
    assert [" ".join(line.split()) for line in shown.stdout.splitlines()] == [
        "place id name priority waits for starts in",
        f"1 {two} second 0 team 60 s",
        "team waiting for free slots",
        "starts in estimated: 1 experiment of the team started in the last minute",
    ]
    assert shown.stderr == "1 more experiment: --limit N shows N\n"
    found = json.loads(runner.invoke(app, ["queue", "--json"]).stdout)
    assert [item["experiment_id"] for item in found["items"]] == [two, three]


def test_the_queue_counts_what_waits_of_other_teams(world: World, accounts: Accounts, runner: CliRunner) -> None:
    world.launcher.nodes = Cluster()
    accounts.team("vision")
    accounts.team("speech")
    eve, bob = accounts.person("eve", speech="viewer"), accounts.person("bob", vision="member")
    with signed_in(world.client, bob) as sender:
        for number, counted in enumerate(("1 more experiment waits", "2 more experiments wait")):
            assert sender.post("/api/v1/experiments", json={"name": f"n{number}"}).status_code == 201
            world.reconciler.reconcile_once()
            shown = runner.invoke(app, ["queue"], env={"RUNG_TOKEN": eve})
            assert shown.output == f"no experiment of your teams waits\nof other teams, {counted}\n"


def test_the_cluster_shows_nodes_and_the_slots_of_what_runs(world: World, runner: CliRunner) -> None:
    one = world.started(name="first", resources={"gpus_per_trial": 0, "cpus_per_trial": 2})
    lines = [line.split() for line in runner.invoke(app, ["cluster"]).stdout.splitlines()]
    assert lines == [
        ["node", "CPUs", "GPUs"],
        ["small", "2", "0"],
        ["large", "8", "2"],
        [],
        ["id", "name", "state", "priority", "slots", "CPUs", "GPUs"],
        [one, "first", "RUNNING", "0", "5", "10", "0"],
    ]
    world.launcher.unreachable = True
    world.reconciler.reconcile_once()
    assert "Ray does not answer" in runner.invoke(app, ["cluster"]).stderr
    assert json.loads(runner.invoke(app, ["cluster", "--json"]).stdout)["reachable"] is False


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_a_duration_is_in_its_largest_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
