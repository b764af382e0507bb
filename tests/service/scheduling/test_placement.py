"""Trials of one experiment on few nodes or on many: where slots are, and how the driver learns it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import validation
from search_spaces.problems import SpecError
from search_spaces.protocol import attempt_id
from search_spaces.resources import PlacementRule
from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.scheduling.allocation import allocate
from service.scheduling.shares import Demand, Pool, Share
from service.scheduling.whole_gpus import in_slots
from service.store.models import Experiment
from tests.support.clock import Clock
from tests.support.reconciling import STEP_S, reconcile_for
from tests.support.world import World

pytestmark = pytest.mark.stores(slow=True)

clusters = st.lists(st.tuples(st.integers(0, 16), st.integers(0, 4)), min_size=1, max_size=5).map(
    lambda found: Cluster(tuple(Node("n", cpus, gpus, f"n{index}") for index, (cpus, gpus) in enumerate(found)))
)
demands = st.builds(
    Demand, st.just("x"), st.integers(1, 4), st.sampled_from([0, 0.25, 0.5, 1, 2]), most=st.integers(0, 12)
)
rules = st.sampled_from([None, "pack", "spread"])


def share_of(demand: Demand, cluster: Cluster, rule: PlacementRule | None = None) -> Share:
    return allocate(Pool(), {}, [replace(demand, placement=rule)], cluster)[demand.experiment_id]


def room(demand: Demand, cluster: Cluster) -> dict[str, int]:
    """How many such slots each node has room for."""
    many = replace(demand, most=99)
    return {node.id: share_of(many, Cluster((node,))).slots for node in cluster.nodes}


@given(clusters, demands)
def test_packed_slots_are_on_as_few_nodes_as_possible(cluster: Cluster, demand: Demand) -> None:
    nodes = share_of(demand, cluster, "pack").nodes
    left, fewest = len(nodes), 0
    for slots in sorted(room(demand, cluster).values(), reverse=True):
        fewest += left > 0
        left -= slots
    assert len({*nodes}) == fewest


@given(clusters, demands)
def test_spread_slots_differ_by_one_at_most_where_there_is_room(cluster: Cluster, demand: Demand) -> None:
    nodes, rooms = share_of(demand, cluster, "spread").nodes, room(demand, cluster)
    counts = {node: nodes.count(node) for node in rooms}
    for node, count in counts.items():
        assert all(other <= count + 1 or count == rooms[node] for other in counts.values())


@given(clusters, st.lists(st.tuples(st.integers(0, 8), rules, st.booleans()), max_size=5), demands)
def test_the_number_of_slots_does_not_depend_on_it(
    cluster: Cluster, wanting: list[tuple[int, PlacementRule | None, bool]], size: Demand
) -> None:
    asked = [
        replace(size, experiment_id=str(index), most=most, placement=rule, running=running, protected=running)
        for index, (most, rule, running) in enumerate(wanting)
    ]
    without = [replace(demand, placement=None) for demand in asked]
    found, usual = (allocate(Pool(), {}, some, cluster) for some in (asked, without))
    assert {one: share.slots for one, share in found.items()} == {one: share.slots for one, share in usual.items()}


FOUR = Cluster(tuple(Node(name, cpus=4, gpus=2, id=name) for name in "abcd"))


@pytest.mark.parametrize(
    ("rule", "nodes"), [("pack", ["a", "b", "b", "b"]), ("spread", ["a", "b", "b", "c"]), (None, ["a", "b", "b", "b"])]
)
def test_trials_that_run_stay_where_they_are(rule: PlacementRule | None, nodes: list[str]) -> None:
    demand = Demand("x", 1, most=4, running=True, held=("b", "a", "b"))
    assert sorted(share_of(demand, FOUR, rule).nodes) == nodes


def test_gpus_that_others_want_are_spared_all_the_same() -> None:
    cluster = Cluster((Node("gpu", cpus=4, gpus=2, id="gpu"), Node("cpu", cpus=2, id="cpu")))
    spread = Demand("x", 1, most=2, placement="spread")
    assert set(allocate(Pool(), {}, [spread], cluster)["x"].nodes) == {"cpu", "gpu"}
    shares = allocate(Pool(), {}, [spread, Demand("y", 1, 1, submitted_at=1)], cluster)
    assert (shares["x"].nodes, shares["y"].nodes) == (("cpu", "cpu"), ("gpu",))


def of(rule: str | None, **resources: Any) -> dict[str, Any]:
    given = {"gpus_per_trial": 0, "max_concurrent_trials": 4, **resources}
    return {"resources": given | ({} if rule is None else {"placement": rule})}


@pytest.mark.parametrize(("rule", "nodes"), [("pack", 1), ("spread", 4)])
def test_a_driver_learns_on_which_nodes_its_slots_are(world: World, clock: Clock, rule: str, nodes: int) -> None:
    world.launcher.nodes = FOUR
    one = world.started(**of(rule))
    launched = world.launcher.launches[attempt_id(one, 1)].slot_nodes
    assert launched is not None
    assert (len(launched), sum(launched.values())) == (nodes, 4)
    reconcile_for(world.reconciler, clock, STEP_S)
    assert world.beat(one, {"phase": "searching"}).json()["slot_nodes"] == launched
    lost, *left = launched
    world.launcher.nodes = Cluster(tuple(node for node in FOUR.nodes if node.id != lost))
    reconcile_for(world.reconciler, clock, STEP_S)
    answer = world.beat(one, {"phase": "searching"}).json()
    assert (answer["slots"], sum(answer["slot_nodes"].values())) == (4, 4)
    assert set(left) <= set(answer["slot_nodes"])
    assert lost not in answer["slot_nodes"]


def test_without_it_ray_chooses_the_nodes_as_for_what_was_stored_before(world: World, context: AppContext) -> None:
    world.launcher.nodes = FOUR
    one, other = (world.submit(**of(rule)) for rule in (None, "pack"))
    with context.database.write() as session:
        row = session.get_one(Experiment, other)
        row.spec = row.spec | {"resources": {k: v for k, v in row.spec["resources"].items() if k != "placement"}}
        assert (row.placement, row.placement_rule) == ("", None)
    world.reconciler.reconcile_once()
    for each in (one, other):
        assert world.launcher.launches[attempt_id(each, 1)].slot_nodes is None
        assert world.beat(each, {"phase": "searching"}).json()["slot_nodes"] is None


def test_a_whole_gpu_is_as_many_slots_on_its_node() -> None:
    whole = in_slots(Share(2, nodes=("a", "b")), 4)
    assert (whole.slots, whole.nodes) == (8, ("a",) * 4 + ("b",) * 4)


def test_other_words_are_refused() -> None:
    with pytest.raises(SpecError) as caught:
        validation.validate({"name": "x", **of("dense")})
    assert [problem.field for problem in caught.value.problems] == ["resources.placement"]
