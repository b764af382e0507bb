"""`gpus_per_trial: auto`: whole GPUs are promised until a driver has measured how many trials share one."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from search_spaces.protocol import Packing, Speed
from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.store.accounting import Usage
from tests.support.clock import Clock
from tests.support.world import World

AUTO = {"gpus_per_trial": "auto"}
FOUR = Packing(trials=4, peak_bytes=10, total_bytes=50, speeds=[Speed(trials=1, images_per_second=7.5)])
WITH_GPU = Cluster((Node("a", cpus=8, gpus=1, id="a"),))
WITHOUT = Cluster((Node("b", cpus=2, id="b"),))


@pytest.fixture(autouse=True)
def one_gpu(world: World) -> None:
    world.launcher.nodes = WITH_GPU
    world.reconciler.reconcile_once()


def submit(world: World, **more: Any) -> str:
    return world.submit(**{"resources": AUTO, "searcher": {"kind": "random", "num_samples": 8}, **more})


def measured(world: World, one: str, packing: Packing = FOUR) -> None:
    message = {"phase": "searching", "packing": packing.model_dump(mode="json")}
    assert world.beat(one, message).status_code == 200


def slots(world: World, *ids: str) -> list[int]:
    world.reconciler.reconcile_once()
    return [world.show(one)["slots"] for one in ids]


def test_a_whole_gpu_is_promised_until_it_is_measured_and_then_its_parts(world: World) -> None:
    one = submit(world)
    assert slots(world, one) == [1]
    shown = world.show(one)
    assert (shown["spec"]["resources"]["gpus_per_trial"], shown["packing"]) == ("auto", None)
    measured(world, one)
    assert slots(world, one) == [4]
    assert world.show(one)["packing"] == FOUR.model_dump(mode="json")
    (of_cluster,) = world.client.get("/api/v1/cluster").json()["shares"]
    assert (of_cluster["slots"], of_cluster["gpus_per_trial"]) == (4, 0.25)
    world.beat(one, {"phase": "completed"})
    assert slots(world, submit(world)) == [1], "the share of one experiment is not that of others"


def test_it_has_one_gpu_while_it_is_measured(world: World) -> None:
    """The others are not idle meanwhile, and no node is added that may not be needed."""
    world.launcher.nodes = Cluster(tuple(Node(name, cpus=8, gpus=1, id=name) for name in "abc"))
    one = submit(world)
    assert slots(world, one) == [1]
    assert slots(world, one) == [1]
    measured(world, one)
    assert slots(world, one) == [8], "of twelve, as many as trials are left"
    world.beat(one, {"phase": "completed"})
    other = submit(world)
    assert slots(world, other) == [1]
    assert world.beat(other, {"phase": "searching", "trials": [world.line(0)]}).status_code == 200
    assert slots(world, other) == [3], "in this attempt nothing could be measured, so each trial has a GPU"


def test_what_waits_says_so(world: World) -> None:
    slots(world, submit(world))
    waiting = submit(world)
    world.reconciler.reconcile_once()
    (entry,) = world.client.get("/api/v1/queue").json()["items"]
    assert (entry["experiment_id"], entry["gpus_per_trial"]) == (waiting, 1)
    assert entry["reason"] == (
        "waiting for free slots; each trial counts as a whole GPU until its driver has measured how many share one"
    )
    given = submit(world, resources={"gpus_per_trial": 1})
    world.reconciler.reconcile_once()
    assert world.show(given)["reason"] == "waiting for free slots"


def test_what_is_decided_is_counted(world: World, context: AppContext, clock: Clock) -> None:
    one = submit(world, searcher={"kind": "random", "num_samples": 1})
    slots(world, one)
    for packing, used in ((None, 2.0), (FOUR, 0.5)):
        if packing:
            measured(world, one)
            slots(world, one)
        before = gpu_seconds(context)
        clock.sleep(2)
        slots(world, one)
        assert gpu_seconds(context) - before == pytest.approx(used)


def gpu_seconds(context: AppContext) -> float:
    with context.database.read() as session:
        return sum(session.scalars(select(Usage.gpu_seconds)))


def test_the_next_attempt_knows_it(world: World) -> None:
    one = submit(world)
    slots(world, one)
    assert world.launcher.launches[f"exp-{one}-a1"].packing is None
    measured(world, one)
    world.post(one, "pause")
    world.beat(one, {"phase": "paused"})
    world.post(one, "resume")
    assert slots(world, one) == [4]
    assert world.launcher.launches[f"exp-{one}-a2"].packing == FOUR


def test_without_gpus_a_trial_has_cpus_as_by_default(world: World) -> None:
    world.launcher.nodes = WITHOUT
    world.reconciler.reconcile_once()
    one = submit(world)
    assert slots(world, one) == [2]
    shown = world.show(one)
    assert (shown["spec"]["resources"]["gpus_per_trial"], shown["packing"]) == (0, None)
    measured(world, one)
    assert (slots(world, one), world.show(one)["packing"]) == ([2], None), "its trials share no GPU"


def test_what_is_submitted_without_nodes_is_decided_by_the_first_nodes(world: World) -> None:
    world.launcher.nodes = Cluster(())
    world.reconciler.reconcile_once()
    one = submit(world)
    assert world.show(one)["spec"]["resources"]["gpus_per_trial"] == "auto"
    world.launcher.nodes = WITHOUT
    assert slots(world, one) == [2]
    assert world.show(one)["spec"]["resources"]["gpus_per_trial"] == 0


def test_what_waits_for_a_gpu_still_does_when_its_node_has_left(world: World) -> None:
    first = submit(world)
    assert slots(world, first) == [1]
    waiting = submit(world)
    assert slots(world, waiting) == [0]
    world.launcher.nodes = WITHOUT
    assert slots(world, first, waiting) == [0, 0]
    assert world.show(waiting)["reason"].startswith("waiting for a larger node: resources.gpus_per_trial")


def test_a_driver_does_not_change_a_size_that_its_spec_gives(world: World) -> None:
    one = submit(world, resources={"gpus_per_trial": 0.5})
    assert slots(world, one) == [2]
    measured(world, one)
    assert (slots(world, one), world.show(one)["packing"]) == ([2], None)


def test_a_dry_run_counts_whole_gpus_and_says_so(world: World) -> None:
    body = {"name": "x", "resources": AUTO}
    checked = world.client.post("/api/v1/experiments", params={"validate_only": True}, json=body).json()
    assert checked["forecast"]["basis"].endswith(
        "; each trial counts as a whole GPU until the first driver has measured how many share one"
    )
