"""Usage: what teams borrowed decides who gets the slot that is left over, so that shares are right in the long run."""

from __future__ import annotations

from collections import Counter

import httpx
import pytest

from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.scheduling import usage
from service.scheduling.allocation import allocate
from service.scheduling.shares import Demand, Grant, Pool
from service.scheduling.usage import PUBLISHED_EVERY_S, UsageMeter
from service.store.models import Experiment
from tests.support.accounts import Accounts, signed_in
from tests.support.clock import Clock
from tests.support.reconciling import reconcile_for
from tests.support.world import World

STEP_S = 1200.0
WANTED = [Demand(team, 1, most=99, team=team) for team in ("a", "b", "c")]


def slots_over_time(cpus: int, days: float, grants: dict[str, Grant], asked: list[Demand] = WANTED) -> Counter[str]:
    clock, found = Clock(), Counter[str]()
    meter, cluster = UsageMeter(STEP_S, clock.monotonic), Cluster((Node("n", cpus=cpus),))
    for _ in range(round(days * 86_400 / STEP_S)):
        given = meter.grants(grants, [one.team for one in asked])
        shares = allocate(Pool(), given, asked, cluster)
        meter.observe(asked, shares, given)
        found.update({one: share.slots for one, share in shares.items()})
        clock.sleep(STEP_S)
    return found


@pytest.mark.parametrize(("cpus", "weights"), [(4, (1, 1, 1)), (8, (3, 2, 1)), (7, (1, 1, 2)), (9, (1, 4, 2))])
def test_shares_are_within_five_percent_of_the_weights_in_the_long_run(cpus: int, weights: tuple[int, ...]) -> None:
    grants = {team: Grant(weight=weight) for team, weight in zip("abc", weights, strict=True)}
    found = slots_over_time(cpus, 20, grants)
    for team, weight in zip("abc", weights, strict=True):
        assert found[team] / found.total() == pytest.approx(weight / sum(weights), rel=0.05)


def test_what_nobody_else_wanted_is_not_counted() -> None:
    """A team that had the cluster to itself for a week gets its part when another one comes."""
    clock, alone = Clock(), WANTED[:1]
    meter, cluster = UsageMeter(STEP_S, clock.monotonic), Cluster((Node("n", cpus=3),))
    for _ in range(500):
        given = meter.grants({}, ["a"])
        meter.observe(alone, allocate(Pool(), given, alone, cluster), given)
        clock.sleep(STEP_S)
    assert {grant.usage for grant in meter.grants({}, ["a", "b"]).values()} == {0.0}


def test_the_order_changes_only_now_and_then() -> None:
    """Otherwise the same slot would go back and forth, and a trial would be stopped for it each time."""
    clock = Clock()
    meter, cluster = UsageMeter(STEP_S, clock.monotonic), Cluster((Node("n", cpus=2),))
    changes, before = 0, {}
    for _ in range(round(2 * 86_400 / STEP_S)):
        given = meter.grants({}, "abc")
        shares = allocate(Pool(), given, WANTED, cluster)
        meter.observe(WANTED, shares, given)
        slots = {one: share.slots for one, share in shares.items()}
        changes, before = changes + (bool(before) and slots != before), slots
        clock.sleep(STEP_S)
    assert 2 <= changes <= 2 * 86_400 / PUBLISHED_EVERY_S


def test_the_slot_that_is_left_goes_from_one_team_to_the_other(
    world: World,
    context: AppContext,
    accounts: Accounts,
    client: httpx.Client,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(usage, "PUBLISHED_EVERY_S", 10.0)
    world.launcher.nodes = Cluster((Node("a", cpus=3),))
    ids = {}
    for team, login in (("vision", "bob"), ("speech", "eve")):
        accounts.team(team)
        with signed_in(client, accounts.person(login, **{team: "member"})) as sender:
            spec = {"name": "x", "resources": {"gpus_per_trial": 0}}
            ids[team] = sender.post("/api/v1/experiments", json=spec).json()["id"]
    seen = []
    for seconds in (12.0, 6.0):
        reconcile_for(world.reconciler, clock, seconds)
        with context.database.read() as session:
            seen.append({team: session.get_one(Experiment, one).slots for team, one in ids.items()})
    assert seen[0] != seen[1]
    assert [sorted(one.values()) for one in seen] == [[1, 2], [1, 2]]
