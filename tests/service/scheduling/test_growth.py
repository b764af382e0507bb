"""A cluster that Ray's autoscaler can enlarge: what is accepted, what waits for a new node, and what is asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from search_spaces.node_requests import DOCUMENT, FOLDER, REPEAT_S, NodeRequests, SlotRequest
from search_spaces.pool_nodes import PoolNodes
from search_spaces.storage.base import open_storage, read_document
from service.adapters.launcher import JobStatus
from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.scheduling import growth
from service.scheduling.allocation import allocate
from service.scheduling.cost import Costs
from service.scheduling.node_requests import LOOK_S, MODULE
from service.scheduling.placement import Size
from service.scheduling.shares import Demand, Grant, Pool, Stop
from tests.support.clock import Clock
from tests.support.metrics import scrape
from tests.support.pools import set_grant, set_pool
from tests.support.reconciling import STEP_S, reconcile_for, refuse
from tests.support.world import World

BIG = Node("a new one", cpus=8, gpus=4)
HEAD = Node("head", cpus=2, id="h")
WORKER = Node("worker", cpus=8, gpus=4, id="w")
EMPTY = Cluster(possible=(BIG,))


def lacking(
    *demands: Demand, pool: Pool | None = None, grant: Grant | None = None, nodes: Cluster = EMPTY
) -> dict[str, int]:
    pool, grants = pool or Pool(), {"default": grant or Grant()}
    return growth.lacking(pool, grants, demands, allocate(pool, grants, demands, nodes), nodes)


def test_what_no_living_node_has_room_for_is_lacking() -> None:
    wide, narrow = Demand("a", 2, 1, most=6), Demand("b", 1, 0, most=3)
    assert lacking(wide, narrow) == {"a": 6, "b": 3}
    assert lacking(wide, narrow, nodes=replace(EMPTY, nodes=(WORKER,))) == {"a": 4}
    assert lacking(wide, narrow, nodes=Cluster((WORKER,))) == {}
    assert lacking(replace(wide, gpus=5)) == {}


def test_what_is_forbidden_is_not_lacking() -> None:
    wanting = Demand("a", 1, 1, most=6), Demand("b", 1, 1, most=6)
    assert sum(lacking(*wanting, grant=Grant(limit=5)).values()) == 5
    assert lacking(*wanting, grant=Grant(is_spent=True)) == {}
    assert lacking(*wanting, grant=Grant(max_running=1)) == {"a": 6}
    assert lacking(*wanting, pool=Pool(max_running=1)) == {"a": 6}
    for stop in (Stop.HOLD, Stop.DRAIN):
        assert lacking(*wanting, pool=Pool(stop)) == {}


def test_so_much_is_asked_for_at_once() -> None:
    assert lacking(Demand("a", 1, 1, most=10**6)) == {"a": growth.MAX_NODES * 4}
    assert lacking(Demand("a", 0.01, 0, most=10**6)) == {"a": growth.MAX_SLOTS}
    slots = [SlotRequest(cpus=cpus, gpus=0, selector={}, count=count) for cpus, count in ((1, 500), (2, 6), (3, 300))]
    asked = growth.bounded({"default": slots})["default"]
    assert [one.count for one in asked] == [125, 6, 125], "no kind waits for nodes of another one"
    demands = {name: Demand(name, cpus, 0, most=500) for name, cpus in (("a", 1), ("b", 2), ("c", 3), ("d", 1))}
    missing = growth.requests({"a": 125, "b": 6, "c": 300, "d": 375}, demands, PoolNodes(), Cluster())
    assert growth.covered(asked, missing) == {"a", "b", "c"}, "nothing of its kind is left for the last"


def test_no_pool_waits_for_the_nodes_of_another_one() -> None:
    def slots(*counts: int) -> list[SlotRequest]:
        return [SlotRequest(cpus=1, gpus=0, selector={}, count=count) for count in counts]

    asked = growth.bounded({"a": slots(500), "b": slots(3, 500), "c": [], "d": slots(6)})
    assert {name: [one.count for one in some] for name, some in asked.items()} == {
        "a": [125],
        "b": [3, 122],
        "c": [],
        "d": [6],
    }


def test_a_limit_in_gpus_stays_one_while_no_gpu_is_there() -> None:
    costs = Costs(Cluster((HEAD,), possible=(BIG,)))
    assert (costs.unit, costs.of(Size.of(1, 1))) == ("GPUs", 10_000)
    assert costs.capacity == 2 * 4 * 10_000 // 10  # the CPUs of the head, as a part of what there can be
    assert Costs(Cluster((WORKER,), possible=(BIG,))).capacity == 40_000


@pytest.fixture
def growing(world: World) -> World:
    world.launcher.nodes = replace(EMPTY, nodes=(HEAD,))
    world.reconciler.reconcile_once()
    return world


def asked(context: AppContext) -> NodeRequests:
    artifacts = open_storage(f"{context.settings.storage_root}/{FOLDER}").artifacts
    return NodeRequests.model_validate_json(read_document(artifacts, DOCUMENT))


def of_gpus(gpus: float | None = 1, samples: int = 4, **resources: Any) -> dict[str, Any]:
    resources |= {} if gpus is None else {"gpus_per_trial": gpus}
    return {"resources": resources, "searcher": {"kind": "random", "num_samples": samples}}


def test_an_experiment_waits_for_a_node_that_ray_is_asked_for(
    growing: World, context: AppContext, clock: Clock
) -> None:
    one = growing.submit(**of_gpus(cpus_per_trial=2))
    growing.reconciler.reconcile_once()
    assert growing.show(one)["reason"] == "waiting for a node with 1 GPU and 2 CPUs (requested from Ray)"
    [entry] = growing.client.get("/api/v1/queue").json()["items"]
    assert (entry["waits_for"], entry["reason"]) == ("node", growing.show(one)["reason"])
    assert scrape(growing.client).by("rung_queue", "waiting_for") == {"node": 1}
    found = asked(context)
    assert found.requests == [SlotRequest(cpus=2, gpus=1, selector={"ray.io/node-id": "!in(h)"}, count=4)]
    assert growing.launcher.commands == {
        found.keeper: (MODULE, f"{context.settings.storage_root}/{FOLDER}", found.keeper)
    }
    growing.launcher.jobs[found.keeper] = JobStatus.RUNNING
    growing.launcher.nodes = replace(EMPTY, nodes=(HEAD, WORKER))
    reconcile_for(growing.reconciler, clock, STEP_S)
    assert (growing.show(one)["state"], growing.show(one)["slots"]) == ("RUNNING", 4)
    assert asked(context).requests == []


def test_what_no_node_can_ever_hold_is_refused(growing: World) -> None:
    answer = growing.client.post("/api/v1/experiments", json={"name": "x", **of_gpus(cpus_per_trial=9)})
    [problem] = answer.json()["errors"]
    assert problem["rule"] == "must be at most 8: the largest node, a new one with 8 CPUs and 4 GPUs, has no more CPUs"


def test_the_number_of_gpus_is_decided_when_a_node_is_there(growing: World, clock: Clock) -> None:
    one = growing.submit(**of_gpus(None))
    assert growing.show(one)["spec"]["resources"]["gpus_per_trial"] is None
    growing.reconciler.reconcile_once()
    assert growing.show(one)["reason"].startswith("waiting for a node with 1 GPU")
    growing.launcher.nodes = replace(EMPTY, nodes=(HEAD, WORKER))
    reconcile_for(growing.reconciler, clock, STEP_S)
    assert growing.show(one)["spec"]["resources"]["gpus_per_trial"] == 1


def test_a_running_experiment_asks_for_more_and_those_behind_it_say_so(growing: World, context: AppContext) -> None:
    growing.launcher.nodes = replace(EMPTY, nodes=(HEAD, WORKER))
    first, second = growing.submit(**of_gpus(samples=6)), growing.submit(**of_gpus())
    set_pool(context.database)
    set_grant(context.database, max_running=1)
    growing.reconciler.reconcile_once()
    assert growing.show(first)["slots"] == 4
    assert growing.show(second)["reason"] == "waiting for another experiment of its team to end: as many run as may"
    assert [one.count for one in asked(context).requests] == [2]
    set_grant(context.database, max_running=None)
    growing.reconciler.reconcile_once()
    assert sum(one.count for one in asked(context).requests) == 6


def test_nothing_is_asked_for_while_the_pool_starts_nothing(growing: World, context: AppContext) -> None:
    set_pool(context.database, stop="hold")
    one = growing.submit(**of_gpus())
    growing.reconciler.reconcile_once()
    assert growing.show(one)["reason"] == "waiting for an administrator: the cluster starts no experiments"
    assert growing.launcher.commands == {}


def test_the_process_that_asks_is_replaced_and_hears_from_the_service(
    growing: World, context: AppContext, clock: Clock
) -> None:
    growing.submit(**of_gpus())
    growing.reconciler.reconcile_once()
    first = asked(context)
    growing.launcher.jobs[first.keeper] = JobStatus.RUNNING
    reconcile_for(growing.reconciler, clock, REPEAT_S + STEP_S)
    assert asked(context) == first.model_copy(update={"sequence": first.sequence + 1})
    growing.launcher.jobs[first.keeper] = JobStatus.FAILED
    reconcile_for(growing.reconciler, clock, LOOK_S + STEP_S)
    second = asked(context)
    assert second.keeper != first.keeper
    assert second.requests == first.requests
    assert set(growing.launcher.commands) == {first.keeper, second.keeper}


def test_a_process_that_fails_again_and_again_is_started_less_and_less_often(growing: World, clock: Clock) -> None:
    growing.submit(**of_gpus())
    began = clock.seconds
    starts = list[float]()
    while clock.seconds < began + 600:
        reconcile_for(growing.reconciler, clock, STEP_S)
        if len(growing.launcher.commands) > len(starts):
            starts.append(clock.seconds)
        growing.launcher.jobs.update(dict.fromkeys(growing.launcher.commands, JobStatus.FAILED))
    gaps = [later - earlier for earlier, later in pairwise(starts)]
    assert gaps[:4] == pytest.approx([LOOK_S, 2 * LOOK_S, 4 * LOOK_S, 8 * LOOK_S], abs=STEP_S)


def test_a_ray_that_takes_no_job_is_asked_again(growing: World, context: AppContext, clock: Clock) -> None:
    run, growing.launcher.run = growing.launcher.run, refuse  # type: ignore[method-assign]
    one = growing.submit(**of_gpus())
    reconcile_for(growing.reconciler, clock, 2 * STEP_S)
    assert growing.show(one)["reason"] == "waiting for a node with 1 GPU and 1 CPU (Ray could not be asked for one)"
    growing.launcher.run = run  # type: ignore[method-assign]
    reconcile_for(growing.reconciler, clock, LOOK_S + STEP_S)
    assert set(growing.launcher.commands) == {asked(context).keeper}
    reconcile_for(growing.reconciler, clock, STEP_S)
    assert growing.show(one)["reason"] == "waiting for a node with 1 GPU and 1 CPU (requested from Ray)"
