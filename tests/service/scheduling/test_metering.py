"""Metering: what experiments hold is counted by the service, whatever their drivers report, and survives a restart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, select

from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.scheduling import borrowing_keeper
from service.scheduling.metering import Metered, held_slots
from service.scheduling.reconciler import Reconciler
from service.store.accounting import Borrowed, Usage, UsageOfMonth
from service.store.leases import release
from service.store.models import Experiment
from tests.support.accounts import Accounts, signed_in, submitted_by_two_teams
from tests.support.clock import Clock
from tests.support.reconciling import STEP_S, reconcile_for
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)

SEARCHING = {"phase": "searching"}
GAP_S = 7.0  # of two passes, at most: the pause of the settings and five seconds


def used(context: AppContext) -> list[Usage]:
    with context.database.read() as session:
        return list(session.scalars(select(Usage).order_by(Usage.hour, Usage.experiment_id)))


def running(world: World, trials: int) -> dict[str, Any]:
    return SEARCHING | {"trials": [world.line(number) for number in range(trials)]}


def test_slots_gpus_and_cpus_are_counted_by_hour_team_and_person(
    world: World, context: AppContext, accounts: Accounts, client: httpx.Client, clock: Clock
) -> None:
    clock.now = datetime(2026, 1, 2, 10, 59, 50, tzinfo=UTC)
    accounts.team("vision")
    with signed_in(client, accounts.person("bob", vision="member")) as bob:
        spec = {"name": "x", "resources": {"gpus_per_trial": 0.5, "cpus_per_trial": 2}}
        one = bob.post("/api/v1/experiments", json=spec).json()["id"]
    reconcile_for(world.reconciler, clock, 2 * STEP_S)  # launched, and counted once
    reconcile_for(world.reconciler, clock, 9 * STEP_S)
    first, second = used(context)
    assert (first.hour, second.hour) == (datetime(2026, 1, 2, 10, tzinfo=UTC), datetime(2026, 1, 2, 11, tzinfo=UTC))
    assert {(row.experiment_id, row.team_id, row.pool) for row in (first, second)} == {(one, "vision", "default")}
    with context.database.read() as session:
        experiment = session.get_one(Experiment, one)
        slots = experiment.slots
        assert first.user_id == experiment.owner_id is not None
    total = first.slot_seconds + second.slot_seconds
    assert total == pytest.approx(10 * STEP_S * slots)
    assert first.slot_seconds == pytest.approx(3 * STEP_S * slots), "up to 10:59:58"
    assert first.gpu_seconds == pytest.approx(0.5 * first.slot_seconds)
    assert first.cpu_seconds == pytest.approx(2 * first.slot_seconds)


def test_the_month_of_a_team_is_the_sum_of_its_hours(world: World, context: AppContext, clock: Clock) -> None:
    clock.now = datetime(2026, 1, 31, 23, 59, 30, tzinfo=UTC)
    world.launcher.nodes = Cluster((Node("a", cpus=4),))
    for cpus in (1, 2):
        world.started(resources={"gpus_per_trial": 0, "max_concurrent_trials": 1, "cpus_per_trial": cpus})
    reconcile_for(world.reconciler, clock, 60)
    hours: dict[datetime, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in used(context):
        sums = hours[row.hour.replace(day=1, hour=0)]
        sums[0] += row.slot_seconds
        sums[1] += row.cpu_seconds
    with context.database.read() as session:
        months = {row.month: [row.slot_seconds, row.cpu_seconds] for row in session.scalars(select(UsageOfMonth))}
    assert sorted(months) == [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)]
    assert months == {month: pytest.approx(sums) for month, sums in hours.items()}


def test_the_month_has_the_hours_that_a_replica_without_sums_has_counted(
    world: World, context: AppContext, clock: Clock
) -> None:
    world.started(resources={"gpus_per_trial": 0, "max_concurrent_trials": 1})
    reconcile_for(world.reconciler, clock, 5 * STEP_S)
    with context.database.write() as session:
        session.execute(delete(UsageOfMonth))  # an earlier version writes hours only
    held = world.reconciler.held
    assert held is not None
    release(context.database, held, clock())
    reconcile_for(Reconciler(context, clock, clock.monotonic), clock, 2 * STEP_S)
    with context.database.read() as session:
        [month] = session.scalars(select(UsageOfMonth))
    assert sum(row.slot_seconds for row in used(context)) == pytest.approx(month.slot_seconds)
    assert month.slot_seconds > 5 * STEP_S


def test_a_slot_counts_also_when_the_driver_reports_nothing(world: World, context: AppContext, clock: Clock) -> None:
    one = world.started(resources={"gpus_per_trial": 0, "max_concurrent_trials": 2})
    world.beat(one, SEARCHING)
    reconcile_for(world.reconciler, clock, 5 * STEP_S)
    assert sum(row.slot_seconds for row in used(context)) == pytest.approx(2 * 5 * STEP_S)


def test_no_gap_between_two_passes_counts_for_longer_than_a_pass(
    world: World, context: AppContext, clock: Clock
) -> None:
    world.started(resources={"gpus_per_trial": 0, "max_concurrent_trials": 1})
    clock.sleep(86_400)
    world.reconciler.reconcile_once()
    assert sum(row.slot_seconds for row in used(context)) == pytest.approx(GAP_S)


def test_two_replicas_in_turn_count_no_time_twice(world: World, context: AppContext, clock: Clock) -> None:
    world.started(resources={"gpus_per_trial": 0, "max_concurrent_trials": 1})
    other, since = Reconciler(context, clock, clock.monotonic), clock.seconds
    for replica in (world.reconciler, other, world.reconciler, other):
        reconcile_for(replica, clock, 2 * STEP_S)
        assert replica.held is not None
        release(context.database, replica.held, clock())
    assert 0 < sum(row.slot_seconds for row in used(context)) <= clock.seconds - since


def test_what_does_not_run_and_what_ray_does_not_answer_for_is_not_counted(
    world: World, context: AppContext, clock: Clock
) -> None:
    one = world.started(resources={"gpus_per_trial": 0, "max_concurrent_trials": 1})
    world.launcher.unreachable = True
    reconcile_for(world.reconciler, clock, 60)
    assert used(context) == []
    world.launcher.unreachable = False
    reconcile_for(world.reconciler, clock, 2 * STEP_S)
    before = sum(row.slot_seconds for row in used(context))
    assert before <= GAP_S + STEP_S
    world.beat(one, {"phase": "completed"})
    reconcile_for(world.reconciler, clock, 60)
    assert sum(row.slot_seconds for row in used(context)) == before


def test_a_trial_that_ends_its_epoch_counts_for_its_experiment_not_for_the_one_that_waits(
    world: World, context: AppContext, clock: Clock
) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=2),))
    first = world.started()
    world.beat(first, running(world, 2))
    second = world.submit(resources={"gpus_per_trial": 0})
    reconcile_for(world.reconciler, clock, STEP_S)
    assert [world.show(one)["slots"] for one in (first, second)] == [1, 1]
    reconcile_for(world.reconciler, clock, 3 * STEP_S)
    assert {row.experiment_id for row in used(context)} == {first}
    world.beat(first, SEARCHING | {"trials": [world.line(0, state="PAUSED"), world.line(1)]})
    reconcile_for(world.reconciler, clock, 3 * STEP_S)
    by_id = {row.experiment_id: row.slot_seconds for row in used(context)}
    assert by_id[second] == pytest.approx(3 * STEP_S)
    assert sum(by_id.values()) == pytest.approx(2 * 7 * STEP_S), "never more than the cluster has"


def test_usage_outlives_the_experiment(world: World, context: AppContext, clock: Clock) -> None:
    one = world.started(resources={"gpus_per_trial": 0, "max_concurrent_trials": 1})
    reconcile_for(world.reconciler, clock, 3 * STEP_S)
    with context.database.write() as session:
        session.delete(session.get_one(Experiment, one))
    assert [row.experiment_id for row in used(context)] == [one]


def test_what_teams_have_borrowed_survives_a_restart_and_a_change_of_the_replica(
    world: World,
    context: AppContext,
    accounts: Accounts,
    client: httpx.Client,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(borrowing_keeper, "SAVE_EVERY_S", 10.0)
    world.launcher.nodes = Cluster((Node("a", cpus=3),))
    ids = submitted_by_two_teams(accounts, client)
    reconcile_for(world.reconciler, clock, 20.0)
    with context.database.read() as session:
        stored = {row.team_id: row.amount for row in session.scalars(select(Borrowed))}
        slots = {team: session.get_one(Experiment, one).slots for team, one in ids.items()}
    most = max(slots, key=slots.__getitem__)
    assert stored[most] > 0 > min(stored.values()), "beyond its part, and behind it"
    clock.sleep(context.settings.lease_s + 1)
    other = Reconciler(context, clock, clock.monotonic)
    other.reconcile_once()
    with context.database.read() as session:
        after = {team: session.get_one(Experiment, one).slots for team, one in ids.items()}
    assert after[most] < slots[most], "the slot that is left goes to the team that has borrowed less so far"


amounts = st.integers(0, 20)
sizes = st.tuples(amounts, amounts, st.floats(0.01, 1.0))


def metered(found: Sequence[tuple[int, int, float]]) -> list[Metered]:
    return [Metered(Experiment(), slots, trials, cost, 1.0, 0.0) for slots, trials, cost in found]


@given(st.lists(sizes, max_size=8))
def test_all_that_was_given_is_counted_and_nobody_more_than_both(found: list[tuple[int, int, float]]) -> None:
    held = held_slots(metered(found))
    given_cost = sum(slots * cost for slots, _, cost in found)
    assert sum(slots * one[2] for slots, one in zip(held, found, strict=True)) >= given_cost - 1e-9
    for counted, (slots, trials, _) in zip(held, found, strict=True):
        assert trials <= counted <= max(slots, trials)


@given(st.lists(sizes, min_size=1, max_size=8))
def test_to_hide_trials_gains_nothing_where_no_trial_is_late(found: list[tuple[int, int, float]]) -> None:
    honest = [(max(slots, trials), trials, cost) for slots, trials, cost in found]
    hiding = [(honest[0][0], 0, honest[0][2]), *honest[1:]]
    assert held_slots(metered(hiding))[0] == held_slots(metered(honest))[0] == honest[0][0]
