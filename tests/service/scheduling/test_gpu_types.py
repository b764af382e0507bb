"""Experiments that ask for types of GPUs: who is refused, who gets which nodes, and what the others wait for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.gpu_types import GPU_TYPE_LABEL
from search_spaces.node_requests import DOCUMENT, FOLDER, NodeRequests
from search_spaces.pool_nodes import PoolNodes
from search_spaces.protocol import attempt_id
from search_spaces.storage.base import open_storage, read_document
from service.context import AppContext
from service.contract.schemas import ClusterStatus
from service.domain.cluster import Cluster, Node
from service.presentation.cluster import nodes as nodes_table
from service.scheduling import growth
from service.scheduling.allocation import allocate
from service.scheduling.shares import Demand, Pool, Why
from service.store.models import Experiment
from tests.support.clock import Clock
from tests.support.reconciling import STEP_S, reconcile_for
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)


def of_type(name: str, gpu_type: str, gpus: int = 2) -> Node:
    return Node(name, cpus=8, gpus=gpus, id=name, labels={GPU_TYPE_LABEL: gpu_type})


A, B = of_type("a", "A100"), of_type("b", "H100")
PLAIN = Node("plain", cpus=8, gpus=2, id="plain")
MIXED = Cluster((PLAIN, A, B))

types = st.frozensets(st.sampled_from(["A100", "H100", "T4"]), max_size=2)
typed_nodes = st.builds(of_type, st.just("n"), st.sampled_from(["A100", "H100"]), st.integers(0, 3))
typed_clusters = st.lists(typed_nodes | st.just(PLAIN), max_size=4).map(
    lambda found: Cluster(tuple(replace(node, id=f"n{index}") for index, node in enumerate(found)))
)
typed_demands = st.lists(st.tuples(types, st.sampled_from([0.5, 1, 2]), st.integers(1, 6)), max_size=5).map(
    lambda found: [
        Demand(str(index), 1, gpus, most=most, gpu_types=gpu_types, submitted_at=index)
        for index, (gpu_types, gpus, most) in enumerate(found)
    ]
)


@given(typed_clusters, typed_demands)
def test_slots_are_on_nodes_of_an_allowed_type_only_and_none_of_them_stays_free(
    cluster: Cluster, asked: list[Demand]
) -> None:
    shares = allocate(Pool(), {}, asked, cluster)
    by_id = {node.id: node for node in cluster.nodes}
    free = {node.id: node.gpus - sum(_used(one, shares[one.experiment_id].nodes, node) for one in asked) for node in
            cluster.nodes}  # fmt: skip
    for one in asked:
        share = shares[one.experiment_id]
        assert all(not one.gpu_types or by_id[node].gpu_type in one.gpu_types for node in share.nodes)
        if share.why in {Why.TEAM, Why.SHARE}:
            able = [node.id for node in cluster.of_types(one.gpu_types).nodes if node.gpus >= one.gpus]
            assert all(free[node] < max(1, one.gpus) for node in able), "no whole GPU of its type is free"
        elif share.why is Why.NODE:
            assert not share.slots


def _used(one: Demand, nodes: tuple[str, ...], node: Node) -> float:
    return one.gpus * nodes.count(node.id)


def test_trials_of_any_type_leave_the_type_that_somebody_asks_for() -> None:
    asked = [Demand("any", 1, 1, most=4), Demand("h100", 1, 1, most=2, gpu_types=frozenset({"H100"}), submitted_at=1)]
    shares = allocate(Pool(), {}, asked, MIXED)
    assert {one: sorted(share.nodes) for one, share in shares.items()} == {
        "any": ["a", "a", "plain", "plain"],
        "h100": ["b", "b"],
    }


def typed(gpu_type: str | list[str] | None, **resources: Any) -> dict[str, Any]:
    return {"resources": {"gpu_type": gpu_type, **resources}}


@pytest.fixture
def mixed(world: World) -> World:
    world.launcher.nodes = MIXED
    world.reconciler.reconcile_once()
    return world


def test_an_experiment_runs_on_nodes_of_its_type_and_its_driver_learns_which(mixed: World) -> None:
    one, several, anything = (mixed.submit(**typed(which)) for which in ("H100", ["A100", "H100"], None))
    mixed.reconciler.reconcile_once()
    slots = {each: mixed.show(each)["slots"] for each in (one, several, anything)}
    assert slots == {one: 2, several: 2, anything: 2}
    pools = [mixed.launcher.launches[attempt_id(each, 1)].pool for each in (one, several, anything)]
    assert pools == [PoolNodes(gpu_types=["H100"]), PoolNodes(gpu_types=["A100", "H100"]), PoolNodes()]
    answer = mixed.beat(one, {"phase": "searching"}).json()
    assert PoolNodes.model_validate(answer["pool"]) == pools[0]


def test_a_type_that_the_cluster_has_not_is_refused_with_those_that_it_has(mixed: World) -> None:
    def problem(**spec: Any) -> tuple[str, str, object]:
        answer = mixed.client.post("/api/v1/experiments", json={"name": "x", **spec})
        assert answer.status_code == 422, answer.text
        [found] = answer.json()["errors"]
        return found["field"], found["rule"], found["value"]

    rule = "must be one of A100, H100: the cluster has no other GPU types"
    assert problem(**typed("h100")) == ("resources.gpu_type", rule, "h100")
    assert problem(**typed(["A100", "T4"], gpus_per_trial="auto")) == ("resources.gpu_type", rule, "T4")
    rule = "must be at most 8: the largest node with GPU type A100, a with 8 CPUs and 2 GPUs, has no more CPUs"
    assert problem(**typed("A100", cpus_per_trial=9)) == ("resources.cpus_per_trial", rule, 9)
    mixed.launcher.nodes = Cluster((PLAIN,))
    mixed.reconciler.reconcile_once()
    rule = f"must be left out: no node of the cluster has the label {GPU_TYPE_LABEL}"
    assert problem(**typed("H100")) == ("resources.gpu_type", rule, "H100")


def test_what_waits_for_a_type_says_so(mixed: World, clock: Clock) -> None:
    first = mixed.submit(**typed("H100"), priority=1)
    second = mixed.submit(**typed("H100", cpus_per_trial=4))
    mixed.reconciler.reconcile_once()
    assert mixed.show(first)["slots"] == 2
    assert mixed.show(second)["reason"] == "waiting for free slots on nodes with GPU type H100"
    [entry] = mixed.client.get("/api/v1/queue").json()["items"]
    assert (entry["gpu_type"], entry["reason"]) == (["H100"], mixed.show(second)["reason"])
    mixed.launcher.nodes = Cluster((PLAIN, A))
    reconcile_for(mixed.reconciler, clock, STEP_S)
    assert mixed.show(second)["reason"] == "waiting for a node with GPU type H100: the cluster has none"
    mixed.launcher.nodes = Cluster((PLAIN, A, replace(B, cpus=2)))
    reconcile_for(mixed.reconciler, clock, STEP_S)
    assert mixed.show(second)["reason"].startswith("waiting for a larger node: resources.cpus_per_trial: must be at")


def test_ray_is_asked_for_a_node_of_the_type(world: World, context: AppContext) -> None:
    kinds = (replace(A, name="a new one", id=""), replace(B, name="a new one", id=""))
    world.launcher.nodes = Cluster((PLAIN,), possible=kinds)
    world.reconciler.reconcile_once()
    one, other = (world.submit(**typed(which), searcher={"kind": "random", "num_samples": 3}) for which in ("H100",
                  ["A100", "H100"]))  # fmt: skip
    world.reconciler.reconcile_once()
    reason = "waiting for a node with 1 GPU and 1 CPU, GPU type H100 (requested from Ray)"
    assert world.show(one)["reason"] == reason
    assert "GPU type A100 or H100 (requested from Ray)" in world.show(other)["reason"]
    artifacts = open_storage(f"{context.settings.storage_root}/{FOLDER}").artifacts
    asked = NodeRequests.model_validate_json(read_document(artifacts, DOCUMENT)).requests
    living = {"ray.io/node-id": "!in(plain)"}
    assert [(request.selector, request.count) for request in asked] == [
        ({**living, GPU_TYPE_LABEL: "in(H100)"}, 3),
        ({**living, GPU_TYPE_LABEL: "in(A100, H100)"}, 3),
    ]


def test_slots_of_one_kind_are_asked_for_together() -> None:
    h100 = Demand("1", 1, 1, most=2, gpu_types=frozenset({"H100"}))
    demands = {"1": h100, "2": replace(h100, experiment_id="2"), "3": Demand("3", 1, 1, most=2)}
    missing = growth.requests(dict.fromkeys(demands, 2), demands, PoolNodes(), Cluster())
    merged = growth.merged(missing.values())
    assert [(one.selector, one.count) for one in merged] == [({GPU_TYPE_LABEL: "in(H100)"}, 4), ({}, 2)]
    assert growth.covered([merged[0].model_copy(update={"count": 2})], missing) == {"1"}


def test_what_was_stored_before_may_use_any_type(mixed: World, context: AppContext, clock: Clock) -> None:
    one = mixed.submit(resources={"gpus_per_trial": 1})
    with context.database.write() as session:
        row = session.get_one(Experiment, one)
        resources = {name: value for name, value in row.spec["resources"].items() if name != "gpu_type"}
        row.spec = row.spec | {"resources": resources}
        row.pool_nodes = {"labels": {}, "others": []}
        assert (row.gpu_type, row.allowed_gpu_types) == ("", frozenset())
    mixed.reconciler.reconcile_once()
    assert (mixed.show(one)["state"], mixed.show(one)["slots"]) == ("RUNNING", 6)
    with context.database.write() as session:
        session.get_one(Experiment, one).pool_nodes = {"labels": {}, "others": []}
    reconcile_for(mixed.reconciler, clock, STEP_S)
    assert mixed.beat(one, {"phase": "searching"}).json()["slots"] == 6


def test_types_are_shown_where_any_is_known(mixed: World) -> None:
    status = ClusterStatus.model_validate(mixed.client.get("/api/v1/cluster").json())
    table = nodes_table(status)
    assert table.headings == ("node", "CPUs", "GPUs", "GPU type")
    assert [row[-1] for row in table.rows] == ["", "A100", "H100"]
    plain = nodes_table(status.model_copy(update={"nodes": status.nodes[:1]}))
    assert plain.headings == ("node", "CPUs", "GPUs")
