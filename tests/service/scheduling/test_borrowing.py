"""Borrowing: what teams had beyond their parts decides who gets the slot that is left over."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import httpx
import pytest

from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.scheduling import borrowing
from service.scheduling.allocation import allocate
from service.scheduling.borrowing import PUBLISHED_EVERY_S, BorrowingMeter
from service.scheduling.shares import Demand, Grant, Pool
from service.store.models import Experiment
from tests.support.accounts import Accounts, submitted_by_two_teams
from tests.support.clock import Clock
from tests.support.reconciling import reconcile_for
from tests.support.world import World

STEP_S = 1200.0
WANTED = [Demand(team, 1, most=99, team=team) for team in ("a", "b", "c")]


def slots_over_time(
    cpus: int, days: float, grants: dict[str, Grant], asked: list[Demand] = WANTED, before: list[Demand] | None = None
) -> Counter[str]:
    """The slots of each experiment, summed over all steps; `before` is what was asked for as many days before these."""
    clock, found = Clock(), Counter[str]()
    meter, cluster = BorrowingMeter(STEP_S, clock.monotonic), Cluster((Node("n", cpus=cpus),))
    for wanted in ([] if before is None else [before]) + [asked]:
        found.clear()
        for _ in range(round(days * 86_400 / STEP_S)):
            given = meter.grants(grants, [one.team for one in wanted])
            shares = allocate(Pool(), given, wanted, cluster)
            meter.observe(wanted, shares, given)
            found.update({one: share.slots for one, share in shares.items()})
            clock.sleep(STEP_S)
    return found


@pytest.mark.parametrize(("cpus", "weights"), [(4, (1, 1, 1)), (8, (3, 2, 1)), (7, (1, 1, 2)), (9, (1, 4, 2))])
def test_shares_are_within_five_percent_of_the_weights_in_the_long_run(cpus: int, weights: tuple[int, ...]) -> None:
    grants = {team: Grant(weight=weight) for team, weight in zip("abc", weights, strict=True)}
    found = slots_over_time(cpus, 20, grants)
    for team, weight in zip("abc", weights, strict=True):
        assert found[team] / found.total() == pytest.approx(weight / sum(weights), rel=0.05)


@pytest.mark.parametrize("before", [WANTED[1:], WANTED[:2], [replace(WANTED[0], most=1), *WANTED[1:]]])
def test_what_was_borrowed_while_others_wanted_less_need_not_be_repaid(before: list[Demand]) -> None:
    """The parts are 3.5, 2.67 and 1.83 slots: the last team could repay less than a slot, so that it would for days."""
    grants = {team: Grant(weight=weight, quota=1) for team, weight in (("a", 3), ("b", 2), ("c", 1))}
    found = slots_over_time(8, 7, grants, before=before)
    for team, grant in grants.items():
        part = grant.quota + 5 * grant.weight / 6
        assert found[team] / found.total() == pytest.approx(part / 8, rel=0.05)


def test_a_team_that_its_own_rules_keep_from_its_part_gathers_nothing() -> None:
    """It would be served before all others for days after its limit was lifted."""
    grants = {"a": Grant(max_running=1)}
    asked = [Demand("a", 1, team="a"), Demand("a2", 1, most=9, team="a"), *WANTED[1:]]
    clock = Clock()
    meter, cluster = BorrowingMeter(STEP_S, clock.monotonic), Cluster((Node("n", cpus=8),))
    for _ in range(round(2 * PUBLISHED_EVERY_S / STEP_S)):
        given = meter.grants(grants, "abc")
        meter.observe(asked, allocate(Pool(), given, asked, cluster), given)
        clock.sleep(STEP_S)
    assert meter.grants(grants, "a")["a"].borrowed == 0.0


def test_what_nobody_else_wanted_is_not_counted() -> None:
    """A team that had the cluster to itself for a week gets its part when another one comes."""
    clock, alone = Clock(), WANTED[:1]
    meter, cluster = BorrowingMeter(STEP_S, clock.monotonic), Cluster((Node("n", cpus=3),))
    for _ in range(500):
        given = meter.grants({}, ["a"])
        meter.observe(alone, allocate(Pool(), given, alone, cluster), given)
        clock.sleep(STEP_S)
    assert {grant.borrowed for grant in meter.grants({}, ["a", "b"]).values()} == {0.0}


def test_the_order_changes_only_now_and_then() -> None:
    """Otherwise the same slot would go back and forth, and a trial would be stopped for it each time."""
    clock = Clock()
    meter, cluster = BorrowingMeter(STEP_S, clock.monotonic), Cluster((Node("n", cpus=2),))
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
    monkeypatch.setattr(borrowing, "PUBLISHED_EVERY_S", 10.0)
    world.launcher.nodes = Cluster((Node("a", cpus=3),))
    ids = submitted_by_two_teams(accounts, client)
    seen = []
    for seconds in (12.0, 6.0):
        reconcile_for(world.reconciler, clock, seconds)
        with context.database.read() as session:
            seen.append({team: session.get_one(Experiment, one).slots for team, one in ids.items()})
    assert seen[0] != seen[1]
    assert [sorted(one.values()) for one in seen] == [[1, 2], [1, 2]]
