"""Budgets: a team that has spent its budget gets no slots until the month ends or the budget is raised."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event
from typer.testing import CliRunner

from service.cli import app
from service.context import AppContext
from service.domain import budgets
from service.domain.accounting import Month
from service.domain.budgets import Standing, Terms
from service.domain.cluster import Cluster, Node
from service.scheduling.allocation import allocate
from service.scheduling.shares import Demand, Grant, Pool, Why
from service.store.accounting import Usage, UsageOfMonth
from tests.support.accounts import Accounts, signed_in
from tests.support.clock import Clock
from tests.support.pools import set_pool
from tests.support.reconciling import STEP_S
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)

SEARCHING = {"phase": "searching"}
BUDGET = "/api/v1/teams/default/budget"
REASON = (
    "waiting for the budget of its team: that of this month is spent; it continues with the next month (UTC), or when "
    "an administrator raises it"
)
#: Of this month, because routes look at the time by themselves.
MIDDLE = Month.of(datetime.now(UTC)).begin + timedelta(days=13, hours=12)


@pytest.fixture
def clock() -> Clock:
    found = Clock()
    found.now = MIDDLE
    return found


@pytest.fixture
def play(world: World, clock: Clock) -> Callable[..., dict[str, Any]]:
    """`play(seconds, experiment, its heartbeat)`: what the last heartbeat was answered."""

    def run(seconds: float, one: str, message: dict[str, Any], attempt: int = 1) -> dict[str, Any]:
        answer: dict[str, Any] = {}
        for _ in range(round(seconds / STEP_S)):
            clock.sleep(STEP_S)
            answer = world.beat(one, message, attempt).json()
            world.reconciler.reconcile_once()
        return answer

    return run


def spend(context: AppContext, slot_hours: float, when: datetime = MIDDLE, team: str = "default") -> None:
    """As if the team had used so much in that month."""
    seconds = {"slot_seconds": 3600 * slot_hours, "gpu_seconds": 0.0, "cpu_seconds": 0.0}
    with context.database.write() as session:
        session.merge(UsageOfMonth(team_id=team, month=Month.of(when).begin, **seconds))


@pytest.fixture
def held(world: World, context: AppContext, clock: Clock, play: Callable[..., Any]) -> str:
    """An experiment that was parked, because the budget of its team was spent while it ran."""
    set_pool(context.database, preempt_grace_s=10.0)
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    one = world.started()
    put = world.client.put(BUDGET, json={"slot_hours": 10})
    assert (put.status_code, put.json()["state"]) == (200, "ok")
    running = SEARCHING | {"trials": [world.line(0)]}
    assert play(2 * STEP_S, one, running)["slots"] == 1
    spend(context, 10)
    answer = play(3 * STEP_S, one, running)
    assert (answer["slots"], answer["stop"], answer["stop_epochs"]) == (0, None, False), "its epoch may end"
    assert world.show(one)["reason"] == "it has no slot: the budget of its team for this month is spent"
    answer = play(70.0, one, SEARCHING | {"trials": [world.line(0, state="PAUSED")]})
    assert (answer["stop"], answer["stop_reason"]) == (
        "pause",
        "the budget of its team for this month is spent; it continues when there is a new one",
    )
    world.beat(one, {"phase": "paused", "reason": answer["stop_reason"]})
    assert world.show(one)["reason"] == answer["stop_reason"]
    clock.sleep(STEP_S)
    world.reconciler.reconcile_once()
    view = world.show(one)
    assert (view["state"], view["reason"], view["attempt"]) == ("QUEUED", REASON, 1)
    return one


def test_the_queue_says_that_the_budget_is_spent_and_until_when(world: World, held: str) -> None:
    [item] = world.client.get("/api/v1/queue").json()["items"]
    assert (item["experiment_id"], item["waits_for"], item["reason"]) == (held, "budget", REASON)
    left = (Month.of(datetime.now(UTC)).end - datetime.now(UTC)).total_seconds()
    assert item["estimate"]["seconds"] == pytest.approx(left, abs=60)
    assert "next month" in item["estimate"]["basis"]


def test_it_continues_when_the_budget_is_raised(world: World, held: str) -> None:
    assert world.client.put(BUDGET, json={"slot_hours": 11}).status_code == 200
    world.reconciler.reconcile_once()
    assert (world.show(held)["state"], world.show(held)["attempt"]) == ("RUNNING", 2)


def test_it_continues_when_the_month_ends(world: World, held: str, clock: Clock) -> None:
    clock.now = Month.of(MIDDLE).end - timedelta(seconds=10)
    world.reconciler.reconcile_once()
    assert world.show(held)["state"] == "QUEUED"
    clock.now = Month.of(MIDDLE).end + timedelta(seconds=1)
    world.reconciler.reconcile_once()
    assert world.show(held)["state"] == "RUNNING"


def test_it_continues_when_the_budget_is_removed_or_only_warns(world: World, held: str) -> None:
    assert world.client.put(BUDGET, json={"slot_hours": 10, "action": "warn"}).json()["state"] == "spent"
    world.reconciler.reconcile_once()
    assert world.show(held)["state"] == "RUNNING"
    assert world.client.delete(BUDGET).status_code == 204
    assert world.client.get("/api/v1/budgets").json() == {"items": []}


def test_a_budget_of_which_most_is_spent_warns_once_and_at_each_submission(
    world: World, context: AppContext, caplog: pytest.LogCaptureFixture
) -> None:
    world.client.put(BUDGET, json={"slot_hours": 10})
    spend(context, 8.5, datetime.now(UTC))
    world.reconciler = type(world.reconciler)(context)
    with caplog.at_level(logging.WARNING):
        world.reconciler.reconcile_once()
        world.reconciler.reconcile_once()
    [announced] = [record.message for record in caplog.records if "budget" in record.message]
    assert announced.startswith("team default has used 8.5 of 10 slot hours of its budget of ")
    assert [one["state"] for one in world.client.get("/api/v1/budgets").json()["items"]] == ["warning"]
    for query in ({}, {"validate_only": "true"}):
        answer = world.client.post("/api/v1/experiments", json={"name": "x"}, params=query).json()
        assert [text for text in answer["warnings"] if "budget" in text] == [announced]


def test_webhooks_of_the_team_are_notified_once_of_each_state(world: World, context: AppContext) -> None:
    hook = world.client.post("/api/v1/webhooks", json={"url": "https://hooks.example.com/"}).json()["id"]
    world.client.put(BUDGET, json={"slot_hours": 10})
    for hours in (7.9, 8.0, 9.9, 10.0, 12.0):
        spend(context, hours)
        world.reconciler.reconcile_once()
    items = world.client.get(f"/api/v1/webhooks/{hook}/deliveries").json()["items"]
    assert [(one["event"], one["data"]) for one in reversed(items)] == [
        ("team.budget", {"team": "default", "state": state}) for state in ("warning", "spent")
    ]


def test_what_is_read_for_budgets_does_not_grow_with_the_month(context: AppContext, accounts: Accounts) -> None:
    hour = Month.of(MIDDLE).begin
    with context.database.write() as session:
        session.merge(budgets.Budget(team_id="default", slot_hours=10, action="hold"))
        for number in range(300):
            seconds = {"slot_seconds": 60.0, "gpu_seconds": 0.0, "cpu_seconds": 0.0}
            when = hour + timedelta(hours=number)
            session.add(Usage(hour=when, experiment_id="x", team_id="default", pool="default", **seconds))
    spend(context, 5)
    statements: list[str] = []
    with context.database.write() as session:
        event.listen(session.connection(), "before_cursor_execute", lambda _, __, text, *___: statements.append(text))
        assert budgets.watch(session, MIDDLE) == frozenset()
    assert [re.findall(r"FROM (\w+)", text) for text in statements if text.startswith("SELECT")] == [
        ["budgets"],
        ["usage_months"],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_budget_may_be_removed_during_a_pass(
    world: World, context: AppContext, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not announced, and the rest of the pass is not lost. SQLite has one writer at a time."""
    world.client.put(BUDGET, json={"slot_hours": 10})
    spend(context, 10)
    removed: list[int] = []
    with context.database.write() as session:

        def remove(_: Any, __: Any, text: str, *___: Any) -> None:
            if "FROM usage_months" in text:  # the budgets were read, and nothing is written yet
                removed.append(world.client.delete(BUDGET).status_code)

        event.listen(session.connection(), "before_cursor_execute", remove)
        assert budgets.watch(session, MIDDLE) == {"default"}
    assert removed == [204]
    assert "of its budget" not in caplog.text


def test_the_team_that_has_spent_its_budget_gets_nothing_and_others_all() -> None:
    nodes = Cluster((Node("a", cpus=4),))
    demands = [Demand(team, 1, most=9, team=team, protected=team == "a", running=team == "a") for team in ("a", "b")]
    grants = {"a": Grant(quota=4, is_spent=True), "b": Grant()}
    shares = allocate(Pool(), grants, demands, nodes)
    assert {team: (share.slots, share.why) for team, share in shares.items()} == {
        "a": (0, Why.BUDGET),
        "b": (4, Why.TEAM),
    }


@pytest.mark.parametrize(
    ("terms", "gpu", "slot", "state"),
    [
        (Terms(gpu_hours=10), 7.9, 1e6, "ok"),
        (Terms(gpu_hours=10), 8.0, 0, "warning"),
        (Terms(gpu_hours=10, slot_hours=10), 0, 10, "spent"),
        (Terms(gpu_hours=0), 0, 0, "spent"),
    ],
)
def test_a_budget_warns_at_eighty_percent_of_either(terms: Terms, gpu: float, slot: float, state: str) -> None:
    assert Standing("vision", Month.of(MIDDLE), terms, gpu, slot).state == state


def test_what_large_teams_use_is_written_out() -> None:
    text = Standing("vision", Month.of(MIDDLE), Terms(gpu_hours=1_500_000), 1_234_567.8).sentence
    assert "has used 1234568 of 1500000 GPU hours" in text


def test_only_the_month_counts(context: AppContext) -> None:
    with context.database.write() as session:
        session.merge(budgets.Budget(team_id="default", slot_hours=10, action="hold"))
    spend(context, 10, MIDDLE)
    with context.database.read() as session:
        states = [budgets.standings(session, month)[0].state for month in (MIDDLE, MIDDLE + timedelta(days=31))]
    assert states == ["spent", "ok"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "gpu_hours"),
        ({"gpu_hours": -1}, "gpu_hours"),
        ({"slot_hours": 1e12}, "slot_hours"),
        ({"slot_hours": False}, "slot_hours"),
        ({"slot_hours": 1, "action": "stop"}, "action"),
        ({"slot_hours": 1, "hours": 2}, "hours"),
    ],
)
def test_a_wrong_budget_is_refused(client: httpx.Client, body: dict[str, Any], field: str) -> None:
    answer = client.put(BUDGET, json=body)
    assert answer.status_code == 422
    assert field in [one["field"] for one in answer.json()["errors"]]
    assert client.get("/api/v1/budgets").json() == {"items": []}


def test_budgets_are_set_by_administrators_recorded_and_seen_by_the_team_only(
    client: httpx.Client, accounts: Accounts, tmp_path: Path
) -> None:
    for team in ("vision", "speech"):
        accounts.team(team)
    tokens = {"root": accounts.person("root", admin=True), "bob": accounts.person("bob", vision="manager")}

    def run(login: str, *arguments: str) -> Any:
        environment = {"RUNG_URL": str(client.base_url), "RUNG_TOKEN": tokens[login], "RUNG_HOME": str(tmp_path)}
        return CliRunner(env=environment | {"COLUMNS": "120"}).invoke(app, list(arguments))

    assert run("bob", "budget", "set", "vision", "--gpu-hours", "5").exit_code == 1
    assert run("bob", "budget", "set", "speech", "--gpu-hours", "5").exit_code == 2
    assert run("root", "budget", "set", "vision", "--gpu-hours", "5").exit_code == 0
    assert run("root", "budget", "set", "speech", "--slot-hours", "7", "--action", "warn").exit_code == 0
    _, *rows = [line.split() for line in run("bob", "budget", "list").stdout.splitlines()]
    assert [row[0] for row in rows] == ["vision"]
    assert "speech" not in run("bob", "budget", "list", "--json").stdout
    assert len(json.loads(run("root", "budget", "list", "--json").stdout)) == 2
    with signed_in(client, tokens["root"]) as root:
        found = root.get("/api/v1/audit", params={"team": "vision"}).json()["items"]
    assert [(one["action"], one["outcome"], one["principal"]) for one in found] == [
        ("set_budget", "done", "root"),
        ("set_budget", "refused", "bob"),
    ]
    assert found[0]["change"] == {
        "before": None,
        "after": {"gpu_hours": 5.0, "slot_hours": None, "action": "hold"},
    }
    assert run("root", "budget", "remove", "vision").stdout == "team vision has no budget now\n"
    assert run("bob", "budget", "list").stdout == "no team that you may see has a budget\n"
