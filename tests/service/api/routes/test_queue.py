"""The queue: what each experiment waits for, and when it will probably start."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from service.adapters.launcher import JobStatus
from service.api import pagination
from service.client import Client
from service.context import AppContext
from service.contract.queue import WaitsFor
from service.contract.states import State
from service.domain.cluster import Cluster, Node
from service.scheduling.shares import Why
from service.store.models import Experiment
from tests.support.accounts import Accounts, signed_in
from tests.support.world import World

pytestmark = pytest.mark.stores


def queue(client: httpx.Client, **query: Any) -> dict[str, Any]:
    answer = client.get("/api/v1/queue", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def submit(world: World, **spec: Any) -> str:
    return world.submit(**{"resources": {"gpus_per_trial": 0}, **spec})


def test_the_queue_is_in_order_of_priority_then_age_and_says_what_each_waits_for(world: World) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    running = world.started()
    two, three = submit(world), submit(world)
    four, urgent = submit(world), submit(world, priority=3)
    world.reconciler.reconcile_once()
    found = queue(world.client)
    assert found["waiting"] == 4
    assert [(item["position"], item["experiment_id"], item["waits_for"]) for item in found["items"]] == [
        (1, urgent, "team"),
        (2, two, "team"),
        (3, three, "team"),
        (4, four, "team"),
    ]
    assert found["items"][0]["reason"] == "waiting for free slots"
    assert found["items"][1]["estimate"] == {
        "seconds": 2 * 60,
        "basis": "1 experiment of the team started in the last minute",
    }
    assert running not in {item["experiment_id"] for item in found["items"]}


def test_what_does_not_depend_on_the_queue_has_no_estimate(world: World) -> None:
    world.reconciler.reconcile_once()
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    one = submit(world, resources={"gpus_per_trial": 0, "cpus_per_trial": 4})
    assert queue(world.client)["items"][0]["waits_for"] == "unknown", "no pass has seen it"
    world.reconciler.reconcile_once()
    [item] = queue(world.client)["items"]
    assert (item["experiment_id"], item["waits_for"], item["estimate"]["seconds"]) == (one, "node", None)
    world.launcher.unreachable = True
    world.reconciler.reconcile_once()
    [item] = queue(world.client)["items"]
    assert (item["waits_for"], item["estimate"]["seconds"]) == ("ray", None)
    assert item["reason"].startswith("waiting for slots: Ray does not answer")


def test_an_experiment_whose_driver_was_lost_says_when_the_next_one_starts(world: World) -> None:
    one = world.started()
    world.launcher.jobs[f"exp-{one}-a1"] = JobStatus.FAILED
    world.reconciler.reconcile_once()
    [item] = queue(world.client)["items"]
    assert item["waits_for"] == "retry"
    assert 0 < item["estimate"]["seconds"] <= 5
    assert "attempt 1 was lost" in item["reason"]


def test_the_queue_is_paged(world: World) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    world.started()
    ids = [submit(world) for _ in range(5)]
    first = queue(world.client, limit=2)
    second = queue(world.client, limit=2, cursor=first["next_cursor"])
    assert [item["experiment_id"] for item in (*first["items"], *second["items"])] == ids[:4]
    with Client(str(world.client.base_url)) as client:
        whole = client.queue(limit=4)
    assert [item.experiment_id for item in whole.items] == ids[:4]
    assert whole.waiting == 5
    assert queue(world.client, limit=2, cursor=whole.next_cursor)["items"][0]["position"] == 5
    for cursor in ("WyJ4Il0", pagination.encode([1]), pagination.encode([-1, "default"])):
        assert world.client.get("/api/v1/queue", params={"cursor": cursor}).status_code == 422


def test_of_other_teams_only_the_number_of_waiting_experiments_is_shown(
    accounts: Accounts, world: World, client: httpx.Client
) -> None:
    """Places and paces are those of a team, so they tell nothing of another one's priorities and starts."""
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    for team in ("speech", "vision"):
        accounts.team(team)
    bob, eve = accounts.person("bob", vision="member"), accounts.person("eve", speech="member")
    both = accounts.person("both", vision="viewer", speech="viewer")
    submitted: dict[str, list[str]] = {bob: [], eve: []}
    for number in range(3):
        for token, own in submitted.items():
            spec = {"name": f"n{number}", "resources": {"gpus_per_trial": 0}, "priority": 9 * (token == eve)}
            with signed_in(client, token) as sender:
                own.append(sender.post("/api/v1/experiments", json=spec).json()["id"])
    world.reconciler.reconcile_once()  # one of them starts, the oldest
    waiting_of_bob = submitted[bob][1:]
    with signed_in(client, bob) as sender:
        found, text = queue(sender), sender.get("/api/v1/queue").text
    assert [(one["position"], one["experiment_id"], one["owner"]) for one in found["items"]] == [
        (place, one, "bob") for place, one in enumerate(waiting_of_bob, 1)
    ]
    assert (found["waiting"], found["waiting_of_others"]) == (2, 3)
    assert not any(word in text for word in ("speech", "eve", *submitted[eve]))
    with signed_in(client, eve) as sender:
        assert {one["estimate"]["basis"] for one in queue(sender)["items"]} == {
            "no experiment of the team started in the last 24 hours"
        }
    with signed_in(client, both) as sender:
        first = queue(sender, limit=3)
        second = queue(sender, limit=3, cursor=first["next_cursor"])
    assert [(one["position"], one["team"]) for one in (*first["items"], *second["items"])] == [
        (1, "speech"),
        (1, "vision"),
        (2, "speech"),
        (2, "vision"),
        (3, "speech"),
    ]
    assert (second["next_cursor"], second["waiting_of_others"]) == (None, 0)


def test_the_pace_is_that_since_the_first_of_them_was_submitted(world: World, context: AppContext) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    running, waits = world.started(), submit(world)
    world.reconciler.reconcile_once()
    for hours, seconds, period in ((3, 3 * 3600, "3 hours"), (72, 24 * 3600, "24 hours")):
        with context.database.write() as session:
            row = session.get_one(Experiment, running)
            row.created_at = datetime.now(UTC) - timedelta(hours=hours)
        [item] = queue(world.client)["items"]
        assert item["experiment_id"] == waits
        basis = f"1 experiment of the team started in the last {period}"
        assert item["estimate"]["basis"] == basis
        assert item["estimate"]["seconds"] == pytest.approx(seconds, abs=60)


def test_a_clock_that_was_set_back_moves_nobody_forward(world: World, context: AppContext) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    world.started()
    first = submit(world)
    with context.database.write() as session:
        session.get_one(Experiment, first).created_at += timedelta(hours=1)
    then = [submit(world) for _ in range(2)]
    world.reconciler.reconcile_once()
    assert [item["experiment_id"] for item in queue(world.client)["items"]] == [first, *then]


def test_only_recent_starts_are_the_basis_of_an_estimate(world: World, context: AppContext) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    running = world.started()
    submit(world)
    world.reconciler.reconcile_once()
    with context.database.write() as session:
        row = session.get_one(Experiment, running)
        assert row.started_at is not None
        row.started_at -= timedelta(days=2)
    [item] = queue(world.client)["items"]
    assert item["estimate"] == {"seconds": None, "basis": "no experiment of the team started in the last 24 hours"}


def test_the_cluster_says_what_an_experiment_without_slot_waits_for(world: World) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    world.started()
    submit(world, priority=2)
    world.reconciler.reconcile_once()
    shares = world.client.get("/api/v1/cluster").json()["shares"]
    assert [(share["state"], share["slots"], share["priority"], share["waits_for"]) for share in shares] == [
        (State.RUNNING, 1, 0, ""),
        (State.QUEUED, 0, 2, "team"),
    ]


def test_every_reason_of_an_allocation_has_a_name_in_the_queue() -> None:
    assert {why.name.lower() for why in Why if why is not Why.ENOUGH} <= set(WaitsFor)
