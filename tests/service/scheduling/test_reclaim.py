"""Reclaim: an experiment yields all its slots to others, ends its driver, and continues in its old place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.scheduling.reclaim import Holding, ReclaimTimer, Since
from service.scheduling.silence import SilenceTimer
from service.store.models import Experiment
from tests.support.accounts import Accounts, signed_in
from tests.support.clock import Clock
from tests.support.pools import set_grant, set_pool
from tests.support.reconciling import STEP_S
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)

SEARCHING = {"phase": "searching"}
MIN_RUN_S, GRACE_S, PARK_S = 20.0, 10.0, 60.0

Play = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def play(world: World, clock: Clock) -> Play:
    """`play(seconds, {experiment: its heartbeat})`: what the last heartbeats were answered."""

    def run(seconds: float, beats: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        for _ in range(round(seconds / STEP_S)):
            clock.sleep(STEP_S)
            answers = [world.beat(one, message).json() for one, message in beats.items()]
            world.reconciler.reconcile_once()
        return answers

    return run


@pytest.fixture
def low(world: World, context: AppContext) -> str:
    """An experiment whose only slot is all that the cluster has, in the first epoch of its first trial."""
    set_pool(context.database, min_run_s=MIN_RUN_S, preempt_grace_s=GRACE_S)
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    experiment_id = world.started()
    world.beat(experiment_id, SEARCHING | {"trials": [world.line(0, epoch=0)]})
    return experiment_id


def submit(world: World, **spec: Any) -> str:
    return world.submit(**{"resources": {"gpus_per_trial": 0}, **spec})


def released(world: World) -> dict[str, Any]:
    """The heartbeat of a driver whose trial has yielded its slot."""
    return SEARCHING | {"trials": [world.line(0, state="PAUSED")]}


def test_a_higher_priority_gets_the_slot_after_the_minimum_run_time(world: World, low: str, play: Play) -> None:
    high = submit(world, priority=5)
    assert play(MIN_RUN_S - 2 * STEP_S, {low: SEARCHING})[0]["slots"] == 1
    assert world.show(high)["state"] == "QUEUED", "what has just started keeps its slot"
    [answer] = play(4 * STEP_S, {low: SEARCHING})
    assert (answer["slots"], answer["stop"], answer["stop_epochs"]) == (0, None, False)
    assert world.show(high)["state"] == "RUNNING"
    assert world.show(low)["reason"] == "it has no slot: others of its team come first"
    [answer] = play(GRACE_S + 2 * STEP_S, {low: SEARCHING})
    assert answer["stop_epochs"], "its epoch had time to end"
    [answer] = play(2 * STEP_S, {low: released(world)})
    assert not answer["stop_epochs"]


def parked(world: World, low: str, play: Play) -> str:
    """The experiment that has the slot now; the driver of `low` was asked to end."""
    high = submit(world, priority=5)
    play(MIN_RUN_S + 2 * STEP_S, {low: SEARCHING})
    play(PARK_S + 3 * STEP_S, {low: released(world), high: SEARCHING})
    assert world.show(low)["state"] == "PREEMPTING"
    return high


def test_an_experiment_without_a_slot_returns_to_its_place_in_the_queue(world: World, low: str, play: Play) -> None:
    younger = submit(world)
    high = parked(world, low, play)
    answer = world.beat(low, released(world)).json()
    assert (answer["stop"], answer["stop_reason"]) == (
        "pause",
        "it has lost its slots; it continues when it gets slots again",
    )
    assert world.beat(low, {"phase": "paused", "reason": answer["stop_reason"]}).status_code == 200
    view = world.show(low)
    assert (view["state"], view["slots"], view["attempt"], view["ended_at"]) == ("QUEUED", 0, 1, None)
    assert view["reason"] == answer["stop_reason"]
    play(2 * STEP_S, {high: SEARCHING})
    assert world.show(low)["reason"] == "waiting for free slots"
    world.beat(high, {"phase": "completed"})
    world.reconciler.reconcile_once()
    assert [(world.show(one)["state"], world.show(one)["attempt"]) for one in (low, younger)] == [
        ("RUNNING", 2),
        ("QUEUED", 0),
    ]


def test_no_failure_is_counted_for_a_driver_that_dies_while_it_was_to_end(
    world: World, low: str, play: Play, context: AppContext
) -> None:
    high = parked(world, low, play)
    world.launcher.jobs.pop(f"exp-{low}-a1")
    play(context.settings.stop_grace_s + 4 * STEP_S, {high: SEARCHING})
    view = world.show(low)
    assert (view["state"], view["attempts"][0]["state"]) == ("QUEUED", "LOST")
    world.beat(high, {"phase": "completed"})
    world.reconciler.reconcile_once()
    assert world.show(low)["state"] == "RUNNING", "at once, without the pause after a failure"


@pytest.mark.parametrize(
    ("verb", "between", "phase", "after"),
    [
        ("pause", "PAUSING", "paused", "PAUSED"),
        ("cancel", "STOPPING", "canceled", "CANCELED"),
        ("resume", "PREEMPTING", "paused", "QUEUED"),
        ("", "PREEMPTING", "completed", "COMPLETED"),
        ("", "PREEMPTING", "failed", "ERROR"),
    ],
)
def test_what_happens_before_the_driver_has_ended_counts(
    world: World, low: str, play: Play, verb: str, between: str, phase: str, after: str
) -> None:
    parked(world, low, play)
    if verb:
        assert world.post(low, verb).status_code == 200
    assert world.show(low)["state"] == between
    assert world.beat(low, {"phase": phase, "reason": "so it ended"}).status_code == 200
    assert world.show(low)["state"] == after


def test_a_full_disk_pauses_also_a_driver_that_was_to_end(world: World, low: str, play: Play) -> None:
    parked(world, low, play)
    world.beat(low, {"phase": "paused", "reason": "the disk is full", "blocked": True})
    assert (world.show(low)["state"], world.show(low)["reason"]) == ("PAUSED", "the disk is full")


def test_slots_that_return_in_time_keep_the_driver(world: World, low: str, play: Play) -> None:
    high = submit(world, priority=5)
    play(MIN_RUN_S + 2 * STEP_S, {low: SEARCHING})
    play(PARK_S - 4 * STEP_S, {low: released(world), high: SEARCHING})
    world.beat(high, {"phase": "completed"})
    [answer] = play(2 * PARK_S, {low: released(world)})
    assert (answer["slots"], answer["stop"], world.show(low)["attempt"]) == (1, None, 1)


def test_a_driver_that_evaluates_its_winner_is_not_parked(world: World, low: str, play: Play) -> None:
    submit(world, priority=5)
    play(MIN_RUN_S + 2 * STEP_S, {low: SEARCHING})
    finalizing = {"phase": "finalizing", "trials": [world.line(0, state="COMPLETED")]}
    [answer] = play(2 * PARK_S, {low: finalizing})
    assert (answer["slots"], answer["stop"]) == (0, None)


def test_trials_leave_a_node_on_which_a_large_one_has_its_turn(world: World) -> None:
    """Its driver learns numbers of slots, not nodes, so it gets fewer until the node is free."""
    world.launcher.nodes = Cluster((Node("a", cpus=4, id="a"), Node("b", cpus=4, id="b")))
    small = world.started()
    large = submit(world, resources={"gpus_per_trial": 0, "cpus_per_trial": 4})
    running = ["a", "b"] * 4
    for _ in range(8):
        world.launcher.placed = {f"exp-{small}-a1": running}
        world.reconciler.reconcile_once()
        slots = world.show(small)["slots"]
        if slots >= len(running):
            break
        running = running[len(running) - slots :]
    assert len({*running}) == 1
    assert (world.show(large)["state"], world.show(small)["slots"]) == ("RUNNING", 4)


def test_the_grant_of_a_team_is_read_in_each_pass(world: World, context: AppContext, play: Play) -> None:
    set_pool(context.database)
    one, two = world.started(), submit(world)
    world.reconciler.reconcile_once()
    assert [world.show(each)["slots"] for each in (one, two)] == [5, 5]
    set_grant(context.database, limit=0.6)
    world.reconciler.reconcile_once()
    assert [world.show(each)["slots"] for each in (one, two)] == [2, 1], "0.2 GPUs' worth of CPUs each"
    set_grant(context.database, max_running=2)
    three = submit(world)
    world.reconciler.reconcile_once()
    assert world.show(three)["reason"].startswith("waiting for another experiment of its team to end")
    set_pool(context.database, stop="hold")
    world.reconciler.reconcile_once()
    assert world.show(three)["reason"] == "waiting for an administrator: the cluster starts no experiments"
    assert world.show(one)["slots"] == 5
    set_pool(context.database, stop="drain")
    world.reconciler.reconcile_once()
    assert [world.show(each)["slots"] for each in (one, two)] == [0, 0]


@pytest.mark.parametrize(
    "change", [{"weight": 0.5}, {"weight": float("nan")}, {"quota": -1}, {"limit": -1}, {"limit": float("inf")}]
)
def test_the_database_refuses_a_grant_that_nobody_can_use(context: AppContext, change: dict[str, float]) -> None:
    set_pool(context.database)
    with pytest.raises(IntegrityError):
        set_grant(context.database, **change)


@pytest.mark.parametrize("change", [{"stop": "holds"}, {"min_run_s": -1.0}, {"preempt_grace_s": float("inf")}])
def test_the_database_refuses_a_pool_that_nobody_can_use(context: AppContext, change: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError):
        set_pool(context.database, **change)


def test_teams_and_people_share_the_slots(
    world: World, context: AppContext, accounts: Accounts, client: httpx.Client
) -> None:
    """Not experiments: who submits five gets no more than who submits one."""
    world.launcher.nodes = Cluster((Node("a", cpus=8),))
    for team in ("speech", "vision"):
        accounts.team(team)
    people = {
        "ann": accounts.person("ann", vision="member"),
        "bob": accounts.person("bob", vision="member"),
        "eve": accounts.person("eve", speech="member"),
    }
    spec = {"name": "x", "resources": {"gpus_per_trial": 0}}
    for login, count in (("ann", 3), ("bob", 1), ("eve", 5)):
        with signed_in(client, people[login]) as sender:
            for _ in range(count):
                sender.post("/api/v1/experiments", json=spec).raise_for_status()
    for _ in range(3):
        world.reconciler.reconcile_once()
    found = Counter[str]()
    with context.database.read() as session:
        for one in session.scalars(select(Experiment)):
            found[str(one.owner)] += one.slots
    assert found == {"ann": 2, "bob": 2, "eve": 4}


def test_the_queue_of_a_team_is_limited_apart_from_others(
    context: AppContext, accounts: Accounts, client: httpx.Client
) -> None:
    for team in ("speech", "vision"):
        accounts.team(team)
    set_pool(context.database)
    set_grant(context.database, "speech", max_queued=1)
    answers = []
    for token in (accounts.person("bob", vision="member"), accounts.person("eve", speech="member")):
        with signed_in(client, token) as sender:
            answers += [sender.post("/api/v1/experiments", json={"name": "x"}).status_code for _ in range(2)]
    assert answers == [201, 201, 201, 422]


def test_a_team_may_have_so_many_experiments_in_the_queue(world: World, context: AppContext) -> None:
    set_pool(context.database)
    set_grant(context.database, max_queued=1)
    submit(world)
    answer = world.client.post("/api/v1/experiments", json={"name": "x"})
    assert answer.status_code == 422
    rule = "team: must have fewer than 1 experiments in the queue; wait, or cancel some of them (got 1)"
    assert answer.json()["detail"] == rule
    world.reconciler.reconcile_once()
    assert world.client.post("/api/v1/experiments", json={"name": "x"}).status_code == 201


def test_an_experiment_that_is_resumed_waits_like_one_that_is_submitted(world: World, context: AppContext) -> None:
    set_pool(context.database)
    set_grant(context.database, max_queued=1)
    first = world.client.post("/api/v1/experiments", json={"name": "x"}).json()["id"]
    world.client.post(f"/api/v1/experiments/{first}/pause").raise_for_status()
    second = world.client.post("/api/v1/experiments", json={"name": "x"}).json()["id"]
    assert world.client.post(f"/api/v1/experiments/{first}/resume").status_code == 422
    assert world.client.get(f"/api/v1/experiments/{first}").json()["state"] == "PAUSED"
    world.client.post(f"/api/v1/experiments/{second}/cancel").raise_for_status()
    assert world.client.post(f"/api/v1/experiments/{first}/resume").status_code == 200


def test_times_begin_again_with_each_attempt_and_when_what_is_counted_ends(clock: Clock) -> None:
    timer = ReclaimTimer(SilenceTimer(100.0, clock.monotonic))

    def after(seconds: float, **holding: Any) -> Since:
        clock.sleep(seconds)
        one = Holding("x", **{"attempt": 1, "slots": 1, "trials": 1, "idle_counts": True, **holding})
        return timer.observe([one])["x"]

    assert after(5) == Since()
    assert after(5) == Since(has_slots_s=5)
    assert after(5, trials=2) == Since(has_slots_s=10)
    assert after(5, trials=2) == Since(has_slots_s=15, over_s=5)
    assert after(5, slots=0, trials=0) == Since()
    assert after(5, slots=0, trials=0) == Since(idle_s=5)
    assert after(5, slots=0, trials=0, idle_counts=False) == Since()
    assert after(5) == Since()
    assert after(5, attempt=2) == Since(), "a new driver"
