"""A trial that needs a GPU for itself: its experiment gets whole GPUs until it has ended, and they are counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some
from sqlalchemy import select

from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.scheduling.shares import Demand
from service.scheduling.whole_gpus import demand_whole
from service.store.accounting import Usage
from tests.support.clock import Clock
from tests.support.world import World

QUARTER = {"gpus_per_trial": 0.25}


@pytest.fixture(autouse=True)
def one_gpu(world: World) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=8, gpus=1, id="a"),))


def submit(world: World, **more: object) -> str:
    return world.submit(**{"resources": QUARTER, "searcher": {"kind": "random", "num_samples": 8}, **more})


def alone(world: World, one: str, state: str = "PENDING") -> None:
    line = world.line(0, state=state, slots=4, error_kind="OUT_OF_MEMORY")
    assert world.beat(one, {"phase": "searching", "trials": [line]}).status_code == 200


def slots(world: World, *ids: str) -> list[int]:
    world.reconciler.reconcile_once()
    return [world.show(one)["slots"] for one in ids]


def test_its_experiment_gets_a_whole_gpu_in_turn_with_others(world: World) -> None:
    one = submit(world)
    assert slots(world, one) == [4]
    other = submit(world)
    assert slots(world, one, other) == [2, 2]
    alone(world, one)
    first = slots(world, one, other)
    assert first in ([4, 0], [0, 4]), "never a part of what the trial needs"
    assert world.client.get(f"/api/v1/experiments/{one}/trials/0").json()["slots"] == 4
    world.beat(other, {"phase": "completed"})
    assert slots(world, one) == [4]
    alone(world, one, "COMPLETED")
    third = submit(world)
    assert slots(world, one, third) == [2, 2], "afterwards, parts again"


def test_each_of_several_gets_one(world: World) -> None:
    world.launcher.nodes = Cluster((Node("a", cpus=16, gpus=4, id="a"),))
    one = submit(world)
    lines = [world.line(number, state="PENDING", slots=4, error_kind="OUT_OF_MEMORY") for number in range(2)]
    slots(world, one)
    assert world.beat(one, {"phase": "searching", "trials": lines}).status_code == 200
    assert slots(world, one) == [16], "two GPUs for these trials, and two for the six others"
    lines += [world.line(number, state="COMPLETED") for number in range(2, 8)]
    assert world.beat(one, {"phase": "searching", "trials": lines}).status_code == 200
    assert slots(world, one) == [8]


def test_the_gpu_is_counted_whole(world: World, context: AppContext, clock: Clock) -> None:
    one = submit(world)
    slots(world, one)
    alone(world, one, "RUNNING")
    before = used(context)
    clock.sleep(2)
    slots(world, one)
    assert used(context) - before == pytest.approx(2.0)


def used(context: AppContext) -> float:
    with context.database.read() as session:
        return sum(session.scalars(select(Usage.gpu_seconds)))


def test_a_driver_cannot_demand_gpus_for_trials_without_one(world: World) -> None:
    one = world.submit(resources={"gpus_per_trial": 0}, searcher={"kind": "random", "num_samples": 3})
    assert slots(world, one) == [3]
    alone(world, one)
    assert slots(world, one) == [3]


@given(
    share=some.integers(2, 100),
    most=some.integers(1, 1000),
    cpus=some.integers(1, 8),
    held=some.lists(some.sampled_from(["a", "b", ""]), max_size=300),
    alone=some.integers(0, 20),
)
def test_whole_gpus_have_room_for_all_trials_and_fit_on_a_node(
    share: int, most: int, cpus: int, held: list[str], alone: int
) -> None:
    small = Demand("x", cpus, 1 / share, most, held=tuple(held))
    whole = demand_whole(small, share, alone, Cluster((Node("a", 8, 1), Node("b", 4, 2))))
    assert whole.gpus == 1
    shared, others = whole.most - min(alone, most), most - min(alone, most)
    assert (shared - 1) * share < others <= shared * share
    assert cpus <= whole.cpus <= max(cpus, 8)
    for node in {*held}:
        assert (whole.held.count(node) - 1) * share < held.count(node) <= whole.held.count(node) * share
