"""Nodes that Ray is asked for and that do not come: for how long, the reason, and who does not wait for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from search_spaces.gpu_types import GPU_TYPE_LABEL
from search_spaces.node_requests import DOCUMENT, FOLDER, NodeRequests
from search_spaces.storage.base import open_storage, read_document
from service.adapters.launcher import JobStatus
from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.scheduling import growth
from service.scheduling.allocation import allocate
from service.scheduling.placement import Size
from service.scheduling.reasons import requested
from service.scheduling.request_ages import LATE_S, RequestAges
from service.scheduling.shares import Demand, Grant, Pool
from tests.support.clock import Clock
from tests.support.pools import set_grant, set_pool
from tests.support.reconciling import STEP_S, reconcile_for
from tests.support.world import World

SMALL, LARGE = Size.of(1, 0), Size.of(8, 0)


def test_the_age_is_that_of_the_request_and_begins_again_with_a_node_that_could_hold_it() -> None:
    clock = Clock()
    ages = RequestAges(clock.monotonic)
    small_node, large_node = Node("s", 2, id="s"), Node("l", 8, id="l")
    ages.observe("default", [SMALL, LARGE], Cluster())
    clock.sleep(60)
    ages.observe("default", [SMALL, LARGE], Cluster((small_node,)))
    clock.sleep(10)
    assert [ages.age_s("default", size) for size in (SMALL, LARGE)] == [10, 70], "one of them has come"
    assert ages.age_s("other", SMALL) == 0
    ages.observe("default", [LARGE], Cluster((small_node,)))
    ages.observe("default", [SMALL, LARGE], Cluster((small_node,)))
    assert [ages.age_s("default", size) for size in (SMALL, LARGE)] == [0, 70], "it was not asked for meanwhile"
    ages.observe("default", [LARGE], Cluster((small_node, large_node)))
    assert ages.age_s("default", LARGE) == 0


def test_a_node_of_another_type_is_not_the_one_that_was_asked_for() -> None:
    clock = Clock()
    ages, h100 = RequestAges(clock.monotonic), Size.of(1, 1, gpu_types=frozenset({"H100"}))
    node = Node("a", 8, 2, id="a", labels={GPU_TYPE_LABEL: "A100"})
    ages.observe("default", [h100], Cluster())
    clock.sleep(60)
    ages.observe("default", [h100], Cluster((node,)))
    assert ages.age_s("default", h100) == 60


@pytest.mark.parametrize(
    ("age_s", "since"),
    [(LATE_S, "10 minutes"), (1799, "20 minutes"), (7199, "110 minutes"), (7200, "2 hours"), (90_000, "25 hours")],
)
def test_the_reason_says_in_steps_for_how_long_ray_was_asked(age_s: float, since: str) -> None:
    assert requested(LATE_S - 1) == "requested from Ray"
    assert requested(age_s).startswith(f"requested from Ray {since} ago, but no such node has come")


@pytest.fixture
def growing(world: World) -> World:
    """Two kinds of nodes can be added: one with GPUs, and one with CPUs."""
    kinds = Node("a new one", cpus=8, gpus=4), Node("a new one", cpus=16)
    world.launcher.nodes = Cluster((Node("head", cpus=2, id="h"),), possible=kinds)
    world.reconciler.reconcile_once()
    return world


def asked(context: AppContext) -> NodeRequests:
    artifacts = open_storage(f"{context.settings.storage_root}/{FOLDER}").artifacts
    return NodeRequests.model_validate_json(read_document(artifacts, DOCUMENT))


def test_an_experiment_says_that_its_node_does_not_come_and_others_are_asked_for_too(
    growing: World, context: AppContext, clock: Clock
) -> None:
    set_pool(context.database)
    set_grant(context.database, max_running=1)
    first = growing.submit(resources={"gpus_per_trial": 1}, priority=1)
    second = growing.submit(resources={"gpus_per_trial": 0, "cpus_per_trial": 12})
    growing.reconciler.reconcile_once()
    growing.launcher.jobs[asked(context).keeper] = JobStatus.RUNNING
    assert growing.show(first)["reason"] == "waiting for a node with 1 GPU and 1 CPU (requested from Ray)"
    assert {one.gpus for one in asked(context).requests} == {1}, "one experiment of the team may run"
    reconcile_for(growing.reconciler, clock, LATE_S + 2 * STEP_S)
    assert growing.show(first)["reason"].startswith(
        "waiting for a node with 1 GPU and 1 CPU (requested from Ray 10 minutes ago, but no such node has come; "
    )
    assert [(one.cpus, one.gpus) for one in asked(context).requests] == [(12, 0), (1, 1)]
    kinds = growing.launcher.nodes
    growing.launcher.nodes = replace(kinds, nodes=(*kinds.nodes, Node("n", cpus=16, id="n")))
    reconcile_for(growing.reconciler, clock, STEP_S)
    assert growing.show(second)["state"] == "RUNNING"
    growing.launcher.nodes = replace(kinds, nodes=(*kinds.nodes, Node("g", cpus=8, gpus=4, id="g")))
    reconcile_for(growing.reconciler, clock, STEP_S)
    assert "requested from Ray" not in growing.show(first)["reason"]


def test_what_waits_for_late_nodes_wants_no_more_than_it_has_beside_the_others() -> None:
    late, other = Demand("late", 1, 1, most=6, running=True), Demand("other", 12, most=2, submitted_at=1)
    nodes = Cluster((Node("g", 8, 1, id="g"),), possible=(Node("new", 8, 4), Node("new", 16)))
    pool, grants = Pool(max_running=1), {"default": Grant()}
    shares = allocate(pool, grants, [late, other], nodes)
    assert {name: share.slots for name, share in shares.items()} == {"late": 1, "other": 0}
    assert growing_by(pool, grants, [late, other], nodes) == {"late": 5}
    assert growing_by(pool, grants, [late, other], nodes, "late") == {"late": 5}, "it runs, so nothing else may"
    waiting = replace(late, running=False)
    empty = replace(nodes, nodes=())
    assert growing_by(pool, grants, [waiting, other], empty) == {"late": 6}
    assert growing_by(pool, grants, [waiting, other], empty, "late") == {"other": 2, "late": 6}


def growing_by(
    pool: Pool, grants: dict[str, Grant], demands: list[Demand], nodes: Cluster, *late: str
) -> dict[str, int]:
    return growth.lacking(pool, grants, demands, allocate(pool, grants, demands, nodes), nodes, late)
