"""Several pools share nothing: neither nodes nor slots, usage, stops or reasons; only the places of drivers."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from sqlalchemy import select

from search_spaces.pool_nodes import PoolNodes
from search_spaces.protocol import attempt_id
from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.store.accounting import Usage
from service.store.models import Experiment
from tests.support.clock import Clock
from tests.support.pools import set_grant, set_pool
from tests.support.reconciling import STEP_S, reconcile_for
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)

NODES = Cluster(
    (
        Node("a", cpus=2, id="a"),
        Node("b", cpus=2, id="b", labels={"zone": "b"}),
        Node("c", cpus=8, gpus=2, id="c", labels={"gpu": "h100", "zone": "c"}),
    )
)
GPU = {"gpu": "h100"}


@pytest.fixture
def pools(world: World, context: AppContext) -> None:
    """The pool `gpu` has node c, and the default one a and b."""
    world.launcher.nodes = NODES
    made = world.client.post("/api/v1/pools", json={"pool": "gpu", "labels": GPU})
    assert made.status_code == 201, made.text
    for pool in ("default", "gpu"):
        world.client.patch(f"/api/v1/pools/{pool}", json={"min_run_s": 0, "preempt_grace_s": 10}).raise_for_status()
    world.client.patch("/api/v1/pools/gpu/grants/default", json={"weight": 1}).raise_for_status()


def of_pool(pool: str, **resources: Any) -> dict[str, Any]:
    return {"resources": {"gpus_per_trial": 0, "pool": pool, **resources}}


def slots(world: World) -> dict[str, int]:
    return {one["id"]: one["slots"] for one in world.client.get("/api/v1/experiments").json()["items"]}


@pytest.mark.usefixtures("pools")
def test_each_experiment_gets_the_slots_of_its_pool_and_drivers_learn_its_nodes(world: World) -> None:
    usual, gpu = world.submit(**of_pool("default")), world.submit(**of_pool("gpu", gpus_per_trial=1))
    world.reconciler.reconcile_once()
    assert slots(world) == {usual: 4, gpu: 2}
    launches = [world.launcher.launches[attempt_id(one, 1)].pool for one in (usual, gpu)]
    assert launches == [PoolNodes(others=[GPU]), PoolNodes(labels=GPU)]
    shares = {one["experiment_id"]: one["pool"] for one in world.client.get("/api/v1/cluster").json()["shares"]}
    assert shares == {usual: "default", gpu: "gpu"}
    nodes = world.client.get("/api/v1/cluster").json()["nodes"]
    assert [(one["name"], one["pool"]) for one in nodes] == [("a", "default"), ("b", "default"), ("c", "gpu")]


@pytest.mark.usefixtures("pools")
def test_a_stop_holds_for_its_pool_only(world: World, clock: Clock) -> None:
    world.client.patch("/api/v1/pools/gpu", json={"stop": "drain"}).raise_for_status()
    usual, gpu = world.submit(**of_pool("default")), world.submit(**of_pool("gpu"))
    world.reconciler.reconcile_once()
    assert slots(world) == {usual: 4, gpu: 0}
    assert world.show(gpu)["reason"] == "waiting for an administrator: the pool gpu starts no experiments"
    world.client.patch("/api/v1/pools/gpu", json={"stop": "none"}).raise_for_status()
    world.client.patch("/api/v1/pools/default", json={"stop": "drain"}).raise_for_status()
    reconcile_for(world.reconciler, clock, STEP_S)
    assert slots(world) == {usual: 0, gpu: 8}


@pytest.mark.usefixtures("pools")
def test_a_trial_that_fits_on_no_node_of_its_pool_is_refused_or_says_so(world: World) -> None:
    world.reconciler.reconcile_once()
    answer = world.client.post("/api/v1/experiments", json={"name": "x", **of_pool("default", cpus_per_trial=4)})
    [problem] = answer.json()["errors"]
    rule = "must be at most 2: the largest node of the pool default, a with 2 CPUs and 0 GPUs, has no more CPUs"
    assert (problem["field"], problem["rule"], problem["value"]) == ("resources.cpus_per_trial", rule, 4)
    gpu = world.submit(**of_pool("gpu", gpus_per_trial=1))
    world.launcher.nodes = Cluster(NODES.nodes[:2])
    world.reconciler.reconcile_once()
    assert world.show(gpu)["reason"] == "waiting for a node: the pool gpu has none"
    world.launcher.nodes = Cluster((*NODES.nodes[:2], Node("d", cpus=4, id="d", labels=GPU)))
    world.reconciler.reconcile_once()
    assert world.show(gpu)["reason"].startswith(
        "waiting for a larger node: resources.gpus_per_trial: must be at most 0: the largest node of the pool gpu, d "
    )


@pytest.mark.usefixtures("pools")
def test_use_is_counted_for_the_pool_of_the_experiment(world: World, context: AppContext, clock: Clock) -> None:
    ids = [world.submit(**of_pool("default")), world.submit(**of_pool("gpu", gpus_per_trial=1))]
    for _ in range(3):
        reconcile_for(world.reconciler, clock, STEP_S)
        for one in ids:
            world.beat(one, {"phase": "searching"})
    with context.database.read() as session:
        found = {row.pool: (row.slot_seconds, row.gpu_seconds) for row in session.scalars(select(Usage))}
    assert found == {"default": (4 * 2 * STEP_S, 0), "gpu": (2 * 2 * STEP_S, 2 * 2 * STEP_S)}
    rows = world.client.get("/api/v1/usage", params={"by": "pool"}).json()["items"]
    assert {one["pool"] for one in rows} == {"default", "gpu"}


@pytest.mark.usefixtures("pools")
def test_a_grant_holds_for_its_pool_only(world: World, context: AppContext) -> None:
    world.client.patch("/api/v1/pools/gpu/grants/default", json={"max_running": 1}).raise_for_status()
    world.client.patch("/api/v1/pools/default/grants/default", json={"max_queued": 0}).raise_for_status()
    refused = world.client.post("/api/v1/experiments", json={"name": "x", **of_pool("default")})
    assert refused.status_code == 422
    first, second = (world.submit(**of_pool("gpu")) for _ in range(2))
    world.reconciler.reconcile_once()
    assert slots(world) == {first: 8, second: 0}
    assert world.show(second)["reason"].startswith("waiting for another experiment of its team to end")
    [waiting] = world.client.get("/api/v1/queue").json()["items"]
    assert (waiting["experiment_id"], waiting["pool"], waiting["position"]) == (second, "gpu", 1)


def test_nodes_that_another_pool_gets_are_left_at_the_end_of_epochs(world: World, clock: Clock) -> None:
    world.launcher.nodes = NODES
    running = world.started()
    assert (slots(world), world.launcher.launches[attempt_id(running, 1)].pool) == ({running: 12}, PoolNodes())
    world.beat(running, {"phase": "searching", "trials": [world.line(number, epoch=0) for number in range(3)]})
    world.launcher.placed = {attempt_id(running, 1): ["a", "c", "c"]}
    world.client.post("/api/v1/pools", json={"pool": "gpu", "labels": GPU}).raise_for_status()
    reconcile_for(world.reconciler, clock, STEP_S)
    answer = world.beat(running, {"phase": "searching"}).json()
    assert (answer["slots"], answer["pool"]) == (1, {"labels": {}, "others": [GPU], "gpu_types": []}), (
        "only what it has of its pool"
    )
    world.launcher.placed = {attempt_id(running, 1): ["a"]}
    reconcile_for(world.reconciler, clock, STEP_S)
    assert world.beat(running, {"phase": "searching"}).json()["slots"] == 4


def test_a_spec_of_before_means_the_default_pool(world: World, context: AppContext) -> None:
    one = world.submit(resources={"gpus_per_trial": 0})
    with context.database.write() as session:
        row = session.get_one(Experiment, one)
        resources = {name: value for name, value in row.spec["resources"].items() if name != "pool"}
        row.spec = row.spec | {"resources": resources}
        assert row.pool == "default"
    world.reconciler.reconcile_once()
    assert world.show(one)["state"] == "RUNNING"


def test_a_pool_is_left_by_all_before_it_is_deleted(world: World, context: AppContext, client: httpx.Client) -> None:
    set_pool(context.database, name="gpu", labels=GPU)
    set_grant(context.database, pool="gpu")
    one = world.submit(**of_pool("gpu"))
    for address in ("/api/v1/pools/gpu", "/api/v1/pools/gpu/grants/default"):
        refused = client.delete(address)
        assert (refused.status_code, one in refused.json()["detail"]) == (409, True)
    world.post(one, "pause").raise_for_status()
    assert client.delete("/api/v1/pools/gpu").status_code == 409, "it has not ended"
    world.cancel(one).raise_for_status()
    assert client.delete("/api/v1/pools/gpu").status_code == 204
    assert client.get("/api/v1/pools/gpu").status_code == 404
    assert client.get("/api/v1/pools/gpu/grants").status_code == 404
