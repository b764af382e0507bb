"""`rung pool` and `rung grant`, over a real service with accounts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from service.cli import app
from service.domain.cluster import Cluster, Node
from tests.support.accounts import Accounts
from tests.support.world import World

Run = Callable[..., Result]


@pytest.fixture
def run(world: World, accounts: Accounts, tmp_path: Path) -> Run:
    world.launcher.nodes = Cluster((Node("a", cpus=16, gpus=8),))
    world.reconciler.reconcile_once()
    accounts.team("vision")
    tokens = {"root": accounts.person("root", admin=True), "eve": accounts.person("eve", vision="manager")}
    environment = {"RUNG_URL": str(world.client.base_url), "RUNG_HOME": str(tmp_path), "COLUMNS": "120"}

    def invoke(*arguments: str, login: str = "root") -> Result:
        return CliRunner(env={**environment, "RUNG_TOKEN": tokens[login]}).invoke(app, arguments)

    return invoke


def rows(result: Result) -> list[list[str]]:
    assert result.exit_code == 0, result.output
    return [line.split() for line in result.stdout.splitlines()]


def test_an_administrator_sets_what_a_team_may_use(run: Run) -> None:
    set_ = run("grant", "set", "vision", "weight=3", "quota=9", "max_queued=200", "max_priority=50")
    assert rows(set_)[1:] == [["vision", "3", "9", "-", "0", "0", "0", "of", "200", "50"]]
    assert set_.stderr == (
        "the quotas of all teams are 9 GPUs together, but the nodes have 8: while all want their quotas, each gets the "
        "same part of its own\n"
    )
    assert rows(run("grant", "list", "--team", "vision")) == rows(set_)
    assert rows(run("grant", "set", "vision", "quota=4", "max_queued=null"))[1:] == [
        ["vision", "3", "4", "-", "0", "0", "0", "50"]
    ]
    removed = run("grant", "remove", "vision")
    assert removed.stdout == "team vision has the defaults now: weight 1, no quota, no limits\n"
    [found] = json.loads(run("grant", "list", "--team", "vision", "--json").stdout)
    assert (found["weight"], found["quota"], found["max_priority"]) == (1, 0, None)


def test_the_errors_name_all_fields(run: Run) -> None:
    wrong = run("grant", "set", "vision", "weight=0", "quota=5", "limit=2")
    assert (wrong.exit_code, wrong.stderr) == (
        2,
        "weight: must be at least 1 (got 0)\nquota: must be at most the limit, 2 (got 5)\n",
    )
    assert run("grant", "set", "vison", "weight=2").stderr == "rung: there is no team 'vison'\n"
    assert run("grant", "list", "--team", "vison").exit_code == 2
    assert run("pool", "change", "--pool", "gpus", "stop=hold").stderr == "rung: there is no pool 'gpus'\n"
    assert "must be" in run("pool", "change", "stop=later").stderr


def test_an_administrator_stops_the_pool_and_everybody_sees_it(run: Run) -> None:
    changed = run("pool", "change", "stop=drain", "min_run_s=300")
    assert [line[:2] for line in rows(changed)] == [
        ["pool", "default"],
        ["labels", "none:"],
        ["stop", "drain:"],
        ["min_run_s", "300:"],
        ["preempt_grace_s", "600:"],
        ["nodes", "1"],
        ["quotas", "0"],
    ]
    assert rows(run("pool", "show", login="eve")) == rows(changed)[:-1], "the sum of quotas is for administrators"
    assert rows(run("pool", "list", login="eve"))[1] == ["default", "-", "drain", "8", "GPUs", "-"]
    assert json.loads(run("pool", "change", "stop=none", "--json").stdout)["stop"] == "none"


def test_a_manager_sees_the_grant_of_the_team_and_cannot_change_it(run: Run) -> None:
    assert [row[0] for row in rows(run("grant", "list", login="eve"))[1:]] == ["vision"]
    for refused in (
        ("grant", "set", "vision", "weight=9"),
        ("grant", "remove", "vision"),
        ("pool", "change", "stop=hold"),
    ):
        result = run(*refused, login="eve")
        assert (result.exit_code, "pool.manage" in result.stderr) == (1, True), result.output


def test_an_administrator_makes_and_deletes_a_pool(run: Run) -> None:
    wrong = run("pool", "create", "big", "--label", "zone")
    assert (wrong.exit_code, "--label" in wrong.stderr) == (2, True)
    made = run("pool", "create", "big", "--label", "zone=a", "--label", "gpu=h100")
    assert made.stdout.splitlines()[:2] == ["pool big", "  labels           zone=a, gpu=h100"]
    assert rows(run("grant", "set", "vision", "--pool", "big", "quota=2"))[1][:3] == ["vision", "1", "2"]
    assert [row[0] for row in rows(run("pool", "list"))] == ["pool", "default", "big"]
    removed = run("grant", "remove", "vision", "--pool", "big")
    assert removed.stdout == "team vision may not use the pool big any more\n"
    deleted = run("pool", "delete", "big")
    assert deleted.stdout == "there is no pool big any more: its nodes belong to the pool default\n"
    assert run("pool", "show", "big").exit_code != 0


def test_a_pool_without_nodes_has_none(run: Run) -> None:
    made = run("pool", "create", "big", "--label", "size=big")
    assert ["nodes", "0"] in rows(made), "a capacity that is not known has no part of the line"
    assert ["big", "size=big", "none", "nothing", "0"] in rows(run("pool", "list"))
