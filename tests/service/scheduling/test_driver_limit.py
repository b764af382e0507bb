"""At most `RUNG_MAX_DRIVERS` experiments run, however many slots are free; the others wait in order and say so."""

from __future__ import annotations

import pytest

from service.context import AppContext
from service.contract.states import DRIVEN
from service.domain.cluster import Cluster, Node
from service.settings import Settings
from tests.support.clock import Clock
from tests.support.pools import set_grant, set_pool
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)
WAITS = "waiting for another experiment to end: 2 run already (RUNG_MAX_DRIVERS)"


@pytest.fixture
def max_drivers() -> int:
    return 2


@pytest.fixture
def settings(settings: Settings, max_drivers: int) -> Settings:
    return Settings(**{**settings.model_dump(), "max_drivers": max_drivers})


def submit(world: World, **spec: object) -> str:
    return world.submit(**{"resources": {"gpus_per_trial": 0}, **spec})


def states(world: World, *ids: str) -> list[str]:
    world.reconciler.reconcile_once()
    return [world.show(one)["state"] for one in ids]


def test_further_experiments_wait_in_order_of_priority_then_age(world: World) -> None:
    one, two, three = (submit(world) for _ in range(3))
    urgent = submit(world, priority=5, searcher={"kind": "random", "num_samples": 4})
    assert states(world, urgent, one, two, three) == ["RUNNING", "RUNNING", "QUEUED", "QUEUED"]
    assert [world.show(i)["reason"] for i in (two, three)] == [WAITS] * 2
    assert [world.show(i)["slots"] for i in (urgent, one)] == [4, 6], "those that wait take no slot"
    world.beat(one, {"phase": "completed"})
    assert states(world, two, three) == ["RUNNING", "QUEUED"]
    assert [world.show(i)["reason"] for i in (two, three)] == ["", WAITS]
    world.patch(urgent, priority=0)
    late = submit(world, priority=7)
    world.beat(urgent, {"phase": "completed"})
    assert states(world, late, three) == ["RUNNING", "QUEUED"], "priority decides who is next"
    assert len(world.launcher.launches) == 4


def test_an_experiment_that_delivers_or_stops_counts_and_one_that_starts_again_keeps_its_place(
    world: World, clock: Clock
) -> None:
    one, two, three, four = (submit(world) for _ in range(4))
    assert states(world, one, two, three) == ["RUNNING", "RUNNING", "QUEUED"]
    world.beat(one, {"phase": "delivering", "reason": "waiting for MLflow: it is unavailable"})
    world.post(two, "pause")
    assert states(world, one, two, three, four) == ["RUNNING", "PAUSING", "QUEUED", "QUEUED"]
    assert world.show(three)["reason"] == WAITS
    world.beat(two, {"phase": "paused"})
    assert states(world, two, three, four) == ["PAUSED", "RUNNING", "QUEUED"]
    world.launcher.jobs.pop(f"exp-{one}-a1")
    clock.sleep(600)
    world.beat(three, {"phase": "searching"})
    assert states(world, one, three, four) == ["QUEUED", "RUNNING", "QUEUED"]
    assert "the next attempt starts in 5 s" in world.show(one)["reason"]
    clock.sleep(6)
    assert states(world, one, three, four) == ["RUNNING", "RUNNING", "QUEUED"]


def test_who_can_never_fit_neither_blocks_the_others_nor_waits_for_a_driver(world: World) -> None:
    world.reconciler.reconcile_once()
    world.launcher.nodes = Cluster((Node("a", cpus=1),))
    large = submit(world, priority=9, resources={"gpus_per_trial": 0, "cpus_per_trial": 4})
    one, two = submit(world), submit(world)
    assert states(world, large, one, two) == ["QUEUED", "RUNNING", "QUEUED"]
    assert world.show(large)["reason"].startswith("waiting for a larger node")
    assert world.show(two)["reason"] == "waiting for free slots", "one more experiment may run"


@pytest.mark.parametrize("max_drivers", [1, 2, 3])
def test_no_more_run_while_more_wait_than_fit(world: World, max_drivers: int) -> None:
    """Candidates that did not fit at first must not start on the slots that the limit leaves free."""
    world.reconciler.reconcile_once()
    world.launcher.nodes = Cluster((Node("a", cpus=4),))
    ids = [submit(world, searcher={"kind": "random", "num_samples": 1}) for _ in range(20)]

    def running() -> list[str]:
        return [one for one, state in zip(ids, states(world, *ids), strict=True) if state in DRIVEN]

    assert [running() for _ in range(3)] == [ids[:max_drivers]] * 3, "also in later passes, with nothing free"
    waits = f"waiting for another experiment to end: {max_drivers} run already (RUNG_MAX_DRIVERS)"
    assert {world.show(one)["reason"] for one in ids[max_drivers:]} == {waits}
    world.beat(ids[0], {"phase": "completed"})
    assert [running() for _ in range(2)] == [ids[1 : max_drivers + 1]] * 2, "the next has its place"
    assert len(world.launcher.launches) == max_drivers + 1


def test_drivers_of_all_pools_count_together_and_each_pool_comes_in_turn(world: World, context: AppContext) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=8, id="a"), Node("b", cpus=8, id="b", labels={"zone": "b"})))
    set_pool(context.database, name="other", labels={"zone": "b"})
    set_grant(context.database, pool="other")
    usual, other = (
        [world.submit(resources={"gpus_per_trial": 0, "pool": pool}) for _ in range(2)] for pool in ("default", "other")
    )
    world.reconciler.reconcile_once()
    states = [world.show(one)["state"] for one in (*usual, *other)]
    assert states == ["RUNNING", "QUEUED", "RUNNING", "QUEUED"]
    world.reconciler.reconcile_once()
    assert {world.show(one)["reason"] for one in (usual[1], other[1])} == {WAITS}
