"""Pools and grants: what an administrator sets, who sees it, and that the scheduler follows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.store.models import StoredGrant, StoredPool
from tests.support.accounts import Accounts, signed_in
from tests.support.clock import Clock
from tests.support.reconciling import reconcile_for
from tests.support.world import World

pytestmark = pytest.mark.stores
POOL = "/api/v1/pools/default"
GRANTS = f"{POOL}/grants"
NOTHING = {"weight": 1, "quota": 0, "limit": None, "max_running": None, "max_queued": None, "max_priority": None}
GPU_FREE = {"resources": {"gpus_per_trial": 0}}


@pytest.fixture
def people(client: httpx.Client, accounts: Accounts) -> Iterator[dict[str, httpx.Client]]:
    """An administrator, and the managers of two teams."""
    with ExitStack() as stack:
        tokens = {"root": accounts.person("root", admin=True)}
        for team in ("vision", "speech"):
            accounts.team(team)
            tokens[team] = accounts.person(f"lead-{team}", **{team: "manager"})
        yield {name: stack.enter_context(signed_in(client, token)) for name, token in tokens.items()}


def body(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()


def terms(grant: dict[str, Any]) -> dict[str, Any]:
    return {name: grant[name] for name in NOTHING}


def test_every_team_has_a_grant_and_a_manager_sees_that_of_the_team(people: dict[str, httpx.Client]) -> None:
    found = body(people["root"].get(GRANTS))["items"]
    assert [(one["team"], terms(one)) for one in found] == [(team, NOTHING) for team in ("default", "speech", "vision")]
    assert [one["team"] for one in body(people["vision"].get(GRANTS))["items"]] == ["vision"]
    people["root"].post("/api/v1/teams/speech/archive").raise_for_status()
    assert [one["team"] for one in body(people["root"].get(GRANTS))["items"]] == ["default", "vision"]


def test_a_change_keeps_what_it_does_not_name_and_null_is_the_default(people: dict[str, httpx.Client]) -> None:
    root, address = people["root"], f"{GRANTS}/vision"
    body(root.patch(address, json={"weight": 3, "quota": 1.5, "limit": 4, "max_running": 0}))
    changed = body(root.patch(address, json={"quota": 2, "limit": None, "max_queued": 200, "max_priority": -5}))
    now = {"weight": 3, "quota": 2, "limit": None, "max_running": 0, "max_queued": 200, "max_priority": -5}
    assert terms(changed) == now
    assert terms(body(people["vision"].get(GRANTS))["items"][0]) == now
    assert terms(body(root.patch(address, json={"weight": None, "max_running": None}))) == {
        **now,
        "weight": 1,
        "max_running": None,
    }
    assert root.delete(address).status_code == 204
    assert terms(body(people["vision"].get(GRANTS))["items"][0]) == NOTHING


def test_all_broken_rules_are_reported_together_and_nothing_is_stored(
    people: dict[str, httpx.Client], context: AppContext
) -> None:
    root = people["root"]
    wrong = {"weight": 0, "quota": 5, "limit": 2, "max_running": -1, "max_priority": 101}
    answer = root.patch(f"{GRANTS}/vision", json=wrong)
    assert answer.status_code == 422
    assert [(one["field"], one["rule"], one["value"]) for one in answer.json()["errors"]] == [
        ("weight", "must be at least 1", 0),
        ("max_running", "must be at least 0", -1),
        ("max_priority", "must be at most 100", 101),
        ("quota", "must be at most the limit, 2", 5),
    ]
    answer = root.patch(f"{GRANTS}/vision", json={"weight": "3", "quota": True, "wieght": 1})
    assert {one["field"] for one in answer.json()["errors"]} == {"weight", "quota", "wieght"}
    assert root.patch(f"{GRANTS}/nosuch", json={"weight": 2}).json()["detail"] == "there is no team 'nosuch'"
    absent = root.patch("/api/v1/pools/nosuch/grants/vision", json={"weight": 2})
    assert (absent.status_code, absent.json()["detail"]) == (404, "there is no pool 'nosuch'")
    answer = root.patch(POOL, json={"stop": "later", "min_run_s": -1})
    assert {one["field"] for one in answer.json()["errors"]} == {"stop", "min_run_s"}
    with context.database.read() as session:
        assert session.scalar(select(func.count()).select_from(StoredGrant)) == 0
        assert session.scalar(select(func.count()).select_from(StoredPool)) == 0


def test_a_quota_may_not_exceed_a_limit_that_was_set_before(people: dict[str, httpx.Client]) -> None:
    root, address = people["root"], f"{GRANTS}/vision"
    body(root.patch(address, json={"quota": 2, "limit": 3}))
    for change in ({"quota": 4}, {"limit": 1}):
        [problem] = root.patch(address, json=change).json()["errors"]
        assert problem["field"] == "quota", change
    assert terms(body(people["vision"].get(GRANTS))["items"][0]) == {**NOTHING, "quota": 2, "limit": 3}


def test_each_change_is_recorded_and_the_manager_of_the_team_reads_it(people: dict[str, httpx.Client]) -> None:
    root = people["root"]
    for _ in range(2):
        body(root.patch(f"{GRANTS}/vision", json={"weight": 3}))
        body(root.patch(POOL, json={"stop": "hold"}))
    root.delete(f"{GRANTS}/vision").raise_for_status()
    root.patch(f"{GRANTS}/vision", json={"weight": 0})
    people["vision"].patch(f"{GRANTS}/vision", json={"weight": 9})
    found = body(people["vision"].get("/api/v1/audit"))["items"]
    assert [(one["action"], one["principal"], one["outcome"], one["change"]) for one in reversed(found)] == [
        ("change_grant", "root", "done", {"before": {"weight": 1}, "after": {"weight": 3}}),
        ("change_grant", "root", "unchanged", {"before": {}, "after": {}}),
        ("remove_grant", "root", "done", {"before": {"weight": 3}, "after": {"weight": 1}}),
        ("change_grant", "root", "refused", None),
        ("change_grant", "lead-vision", "refused", None),
    ]
    assert {one["object"] for one in found if one["principal"] == "root"} == {"pools/default/grants/vision"}
    of_pool = body(root.get("/api/v1/audit", params={"object": "pools/default"}))["items"]
    assert [(one["outcome"], one["change"]["after"]) for one in of_pool if one["action"] == "change_pool"] == [
        ("unchanged", {}),
        ("done", {"stop": "hold"}),
    ]


def test_administrators_read_a_hint_when_quotas_are_more_than_the_cluster_has(
    people: dict[str, httpx.Client], world: World
) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=4), Node("b", cpus=4)))
    world.reconciler.reconcile_once()
    root = people["root"]
    assert body(root.patch(f"{GRANTS}/vision", json={"quota": 6}))["hints"] == []
    hint = "the quotas of all teams are 9 CPUs together, but the nodes have 8: "
    assert body(root.patch(f"{GRANTS}/speech", json={"quota": 3}))["hints"][0].startswith(hint)
    found = body(root.get(POOL))
    assert (found["unit"], found["capacity"], found["quotas"]) == ("CPUs", 8, 9)
    assert found["hints"][0].startswith(hint)
    of_manager = body(people["vision"].get(POOL))
    assert (of_manager["capacity"], of_manager["quotas"], of_manager["hints"]) == (8, None, [])


def test_the_scheduler_follows_what_is_set(people: dict[str, httpx.Client], world: World, clock: Clock) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=8),))
    root, ids = people["root"], {}
    for team in ("vision", "speech"):
        answer = people[team].post("/api/v1/experiments", json={"name": "x", **GPU_FREE})
        ids[team] = answer.json()["id"]

    def used() -> dict[str, float]:
        reconcile_for(world.reconciler, clock, 4.0)
        return {one["team"]: one["used"] for one in body(root.get(GRANTS))["items"] if one["team"] in ids}

    body(root.patch(POOL, json={"stop": "hold", "min_run_s": 0}))
    assert used() == {"vision": 0, "speech": 0}
    [waiting] = body(people["vision"].get("/api/v1/queue"))["items"]
    assert waiting["waits_for"] == "hold"
    body(root.patch(POOL, json={"stop": "none"}))
    assert used() == {"vision": 4, "speech": 4}
    body(root.patch(f"{GRANTS}/vision", json={"weight": 3}))
    assert used() == {"vision": 6, "speech": 2}
    body(root.patch(f"{GRANTS}/speech", json={"quota": 4}))
    assert used() == {"vision": 3, "speech": 5}
    body(root.patch(f"{GRANTS}/speech", json={"quota": None, "limit": 1}))
    assert used() == {"vision": 7, "speech": 1}
    [grant] = body(people["speech"].get(GRANTS))["items"]
    assert (grant["running"], grant["queued"]) == (1, 0)


def test_a_priority_is_changed_while_it_runs_and_counts_up_to_the_ceiling(
    people: dict[str, httpx.Client], world: World, clock: Clock
) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    body(people["root"].patch(POOL, json={"min_run_s": 0}))
    older, newer = (
        people["vision"].post("/api/v1/experiments", json={"name": name, **GPU_FREE}).json()["id"] for name in "ab"
    )

    def slots() -> dict[str, int]:
        reconcile_for(world.reconciler, clock, 4.0)
        return {one["id"]: one["slots"] for one in body(people["vision"].get("/api/v1/experiments"))["items"]}

    assert slots() == {older: 1, newer: 0}
    changed = body(people["vision"].patch(f"/api/v1/experiments/{newer}", json={"priority": 5}))
    assert (changed["priority"], changed["priority_ceiling"]) == (5, None)
    assert slots() == {older: 0, newer: 1}
    body(people["root"].patch(f"{GRANTS}/vision", json={"max_priority": 0}))
    assert slots() == {older: 1, newer: 0}, "both count as 0, so the older one is first"
    shown = body(people["vision"].get(f"/api/v1/experiments/{newer}"))
    assert (shown["priority"], shown["priority_ceiling"], shown["owner"]) == (5, 0, "lead-vision")


def test_submissions_beyond_the_limit_of_the_queue_are_refused(people: dict[str, httpx.Client]) -> None:
    body(people["root"].patch(f"{GRANTS}/vision", json={"max_queued": 1}))
    assert people["vision"].post("/api/v1/experiments", json={"name": "one"}).status_code == 201
    [problem] = people["vision"].post("/api/v1/experiments", json={"name": "two"}).json()["errors"]
    assert problem["field"] == "team"
    [grant] = body(people["vision"].get(GRANTS))["items"]
    assert (grant["queued"], grant["used"]) == (1, None), "no node was seen yet"


def of_pool(pool: str) -> dict[str, Any]:
    return {"name": "x", "resources": {"gpus_per_trial": 0, "pool": pool}}


def test_a_team_uses_a_pool_in_which_it_has_a_grant(people: dict[str, httpx.Client]) -> None:
    root, vision, speech = people["root"], people["vision"], people["speech"]
    made = root.post("/api/v1/pools", json={"pool": "gpu", "labels": {"gpu": "h100"}})
    assert (made.status_code, made.json()["labels"], made.json()["stop"]) == (201, {"gpu": "h100"}, "none")
    assert body(root.get("/api/v1/pools/gpu/grants"))["items"] == []
    body(root.patch("/api/v1/pools/gpu/grants/vision", json={"weight": 1}))
    first = vision.post("/api/v1/experiments", json=of_pool("gpu"))
    assert first.status_code == 201
    [problem] = speech.post("/api/v1/experiments", json=of_pool("gpu")).json()["errors"]
    rule = "must be a pool in which the team speech has a grant: default; an administrator gives grants"
    assert (problem["field"], problem["rule"], problem["value"]) == ("resources.pool", rule, "gpu")
    [problem] = vision.post("/api/v1/experiments", json=of_pool("nosuch")).json()["errors"]
    assert problem["rule"].startswith("must be a pool in which the team vision has a grant: default, gpu;")
    [problem] = vision.post("/api/v1/experiments", json=of_pool("No such")).json()["errors"]
    assert problem["field"] == "resources.pool"
    changes = [one["change"] for one in body(vision.get("/api/v1/audit"))["items"] if one["action"] == "change_grant"]
    assert changes == [{"before": {}, "after": NOTHING}]
    created = body(root.get("/api/v1/audit", params={"object": "pools/gpu"}))["items"]
    assert {"after": {"labels": {"gpu": "h100"}}} in [one["change"] for one in created]


def test_a_continuation_may_use_another_pool_and_none_is_resumed_without_a_right(
    people: dict[str, httpx.Client],
) -> None:
    root, vision = people["root"], people["vision"]
    root.post("/api/v1/pools", json={"pool": "gpu", "labels": {"gpu": "h100"}}).raise_for_status()
    body(root.patch("/api/v1/pools/gpu/grants/vision", json={"weight": 1}))
    source = vision.post("/api/v1/experiments", json=of_pool("gpu")).json()["id"]
    vision.post(f"/api/v1/experiments/{source}/cancel").raise_for_status()
    root.delete("/api/v1/pools/gpu").raise_for_status()
    [problem] = vision.post(f"/api/v1/experiments/{source}/continue", json={}).json()["errors"]
    assert problem["field"] == "resources.pool"
    patch = {"resources": {"pool": "default"}}
    assert vision.post(f"/api/v1/experiments/{source}/continue", json=patch).status_code == 201


def test_no_node_can_be_in_two_pools(people: dict[str, httpx.Client]) -> None:
    root, address = people["root"], "/api/v1/pools"
    root.post(address, json={"pool": "gpu", "labels": {"gpu": "h100"}}).raise_for_status()
    wrong = root.post(address, json={"pool": "No", "labels": {"-": "a b", "zone": "a"}}).json()["errors"]
    assert [one["field"] for one in wrong] == ["pool", "labels", "labels.-", "labels"]
    overlapping = root.post(address, json={"pool": "fast", "labels": {"gpu": "h100", "disk": "fast"}})
    [problem] = overlapping.json()["errors"]
    rule = "must give another value to a label of the pool gpu (gpu=h100): no node may be in both"
    assert (problem["field"], problem["rule"]) == ("labels", rule)
    for labels in ({}, {"ray.io/node-id": "a"}):
        assert root.post(address, json={"pool": "fast", "labels": labels}).status_code == 422
    root.post(address, json={"pool": "old", "labels": {"gpu": "v100"}}).raise_for_status()
    assert root.post(address, json={"pool": "old", "labels": {"gpu": "p100"}}).status_code == 409
    assert root.patch(f"{address}/old", json={"labels": {"gpu": "h100"}}).status_code == 422
    assert body(root.patch(f"{address}/old", json={"labels": {"gpu": "p100"}}))["labels"] == {"gpu": "p100"}
    assert root.patch(POOL, json={"labels": {"gpu": "a"}}).json()["errors"][0]["field"] == "labels"
    assert root.delete(POOL).status_code == 409
    assert [one["pool"] for one in body(root.get(address))["items"]] == ["default", "gpu", "old"]
