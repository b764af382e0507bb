"""Exchange of slots: an experiment that can use one node only is not kept out by one that can use others as well."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from search_spaces.gpu_types import GPU_TYPE_LABEL
from service.domain.cluster import Cluster, Node
from service.scheduling.allocation import allocate
from service.scheduling.shares import Demand, Pool, Share, Why
from tests.support.clock import Clock
from tests.support.reconciling import STEP_S
from tests.support.world import World

POOL, SEARCHING = Pool(), {"phase": "searching"}
NODES = Cluster((Node("a", cpus=2, id="n1"), Node("b", cpus=2, id="n2")))
OLDER = Demand("older", 2, most=1, running=True, held=("n2",))
CHOOSY = Demand("choosy", 2, most=1, running=True, excluded=frozenset({"n1"}), submitted_at=1)


def test_who_has_a_choice_of_nodes_makes_room_for_who_has_none() -> None:
    """The older one's trial leaves at the end of its epoch; then it gets the other node, and both stay where they
    are."""
    shares = allocate(POOL, {}, [OLDER, CHOOSY], NODES)
    assert shares["choosy"].nodes == ("n2",)
    assert (shares["older"].slots, shares["older"].why) == (0, Why.MOVING)
    shares = allocate(POOL, {}, [replace(OLDER, held=()), CHOOSY], NODES)
    assert (shares["older"].nodes, shares["choosy"].nodes) == (("n1",), ("n2",))
    older, choosy = replace(OLDER, held=("n1",)), replace(CHOOSY, held=("n2",))
    shares = allocate(POOL, {}, [older, choosy], NODES)
    assert (shares["older"].nodes, shares["choosy"].nodes) == (("n1",), ("n2",))


def test_who_has_both_nodes_leaves_the_one_that_the_other_can_use() -> None:
    shares = allocate(POOL, {}, [replace(OLDER, most=2, held=("n1", "n2")), CHOOSY], NODES)
    assert (shares["older"].nodes, shares["choosy"].nodes) == (("n1",), ("n2",))


def test_a_slot_without_a_trial_is_exchanged_before_one_with_a_trial() -> None:
    """Nobody has to leave anything."""
    three = Cluster((*NODES.nodes, Node("c", cpus=2, id="n3")))
    new = Demand("new", 2, most=1, priority=1, submitted_at=2, excluded=frozenset({"n1"}))
    shares = allocate(POOL, {}, [replace(OLDER, held=("n2",)), replace(new, excluded=frozenset()), CHOOSY], three)
    assert shares["older"].nodes == ("n2",)
    assert shares["choosy"].nodes == ("n3",)
    assert shares["new"].nodes == ("n1",)


def test_a_protected_experiment_leaves_any_slot_except_its_first() -> None:
    three = Cluster((*NODES.nodes, Node("c", cpus=2, id="n3")))
    older = replace(OLDER, protected=True, most=2, held=("n3", "n2"))
    choosy = replace(CHOOSY, excluded=frozenset({"n1", "n3"}))
    shares = allocate(POOL, {}, [older, choosy], three)
    assert (shares["choosy"].nodes, shares["older"].nodes) == (("n2",), ("n3",))
    older = replace(older, held=("n2", "n3"))
    assert not allocate(POOL, {}, [older, choosy], three)["choosy"].slots


def test_nobody_makes_room_who_has_no_other_node_or_is_protected() -> None:
    for stays in (replace(OLDER, excluded=frozenset({"n1"})), replace(OLDER, protected=True)):
        shares = allocate(POOL, {}, [stays, CHOOSY], NODES)
        assert shares["older"].nodes == ("n2",)
        assert (shares["choosy"].slots, shares["choosy"].why) == (0, Why.TEAM)


def test_slots_of_other_sizes_are_not_exchanged() -> None:
    shares = allocate(POOL, {}, [OLDER, replace(CHOOSY, cpus=1)], NODES)
    assert (shares["older"].nodes, shares["choosy"].slots) == (("n2",), 0)


def test_who_needs_a_type_of_gpu_gets_it_from_who_takes_any() -> None:
    types = {"n1": "T4", "n2": "A100"}
    nodes = (Node(name, cpus=8, gpus=1, id=name, labels={GPU_TYPE_LABEL: one}) for name, one in types.items())
    cluster = Cluster(tuple(nodes))
    any_type = Demand("any", 1, 1, running=True, held=("n2",))
    one_type = Demand("one", 1, 1, gpu_types=frozenset({"A100"}), submitted_at=1)
    shares = allocate(POOL, {}, [any_type, one_type], cluster)
    assert (shares["one"].nodes, shares["any"].why) == (("n2",), Why.MOVING)
    assert allocate(POOL, {}, [replace(any_type, held=()), one_type], cluster)["any"].nodes == ("n1",)


choices = st.frozensets(st.sampled_from(["n1", "n2", "n3"]), max_size=2)
experiments = st.lists(
    st.tuples(st.integers(1, 3), choices, st.lists(st.sampled_from(["n1", "n2", "n3"]), max_size=3)), max_size=5
)


def at_rest(cluster: Cluster, asked: list[Demand]) -> dict[str, Share]:
    """Shares once all trials have left that must, and all slots have one. Fails unless that is so after 12 rounds."""
    before: dict[str, tuple[str, ...]] = {}
    for _ in range(12):
        shares = allocate(POOL, {}, asked, cluster)
        after = {name: tuple(sorted(share.nodes)) for name, share in shares.items()}
        if after == before and all(share.why is not Why.MOVING for share in shares.values()):
            return shares
        before = after
        asked = [
            replace(one, held=after[one.experiment_id], running=bool(after[one.experiment_id]) or one.running)
            for one in asked
        ]
    raise AssertionError(f"experiments never rest: {after}")


@given(found=experiments)
def test_the_slots_come_to_rest_and_none_that_somebody_can_use_stays_free(
    found: list[tuple[int, frozenset[str], list[str]]],
) -> None:
    cluster = Cluster(tuple(Node(name, cpus=2, id=name) for name in ("n1", "n2", "n3")))
    asked = [
        Demand(str(index), 1, most=most, excluded=excluded, held=tuple(held), running=bool(held), submitted_at=index)
        for index, (most, excluded, held) in enumerate(found)
    ]
    shares = at_rest(cluster, asked)
    used = Counter(node for share in shares.values() for node in share.nodes)
    assert all(count <= 2 for count in used.values())
    free = {node.id for node in cluster.nodes if used[node.id] < 2}
    for one in asked:
        share = shares[one.experiment_id]
        assert not set(share.nodes) & one.excluded
        assert share.slots == one.most or not free - one.excluded, "it could use a free slot"


def test_a_preempted_experiment_does_not_return_to_a_node_that_failed_it(world: World, clock: Clock) -> None:
    """Otherwise it would take a slot there, fail, and lose it, again and again. Ten minutes later it tries again."""
    world.launcher.nodes = NODES
    older = world.started(resources={"gpus_per_trial": 0, "cpus_per_trial": 2}, priority=1)
    world.beat(older, SEARCHING | {"excluded_nodes": ["n1"]})  # so it is on n2 and makes room for nobody
    choosy = world.started(resources={"gpus_per_trial": 0, "cpus_per_trial": 2})
    failed = SEARCHING | {"excluded_nodes": ["n1", "gone"], "leaving_nodes": ["gone"]}
    world.beat(choosy, failed)
    while world.show(choosy)["state"] == "RUNNING":
        clock.sleep(STEP_S)
        world.beat(choosy, failed)
        world.beat(older, SEARCHING | {"excluded_nodes": ["n1"]})
        world.reconciler.reconcile_once()
    world.beat(choosy, failed | {"phase": "paused"})
    world.reconciler.reconcile_once()
    assert (world.show(choosy)["state"], world.show(choosy)["reason"]) == (
        "QUEUED",
        "waiting for free slots; not on 1 node that failed its last attempt",
    )
    world.beat(older, {"phase": "completed"})
    world.reconciler.reconcile_once()
    assert (world.show(choosy)["state"], world.show(choosy)["slots"]) == ("RUNNING", 1)
    assert world.launcher.launches[f"exp-{choosy}-a2"].excluded_nodes == ["n1"]


def test_after_ten_minutes_a_preempted_experiment_tries_a_node_again(world: World, clock: Clock) -> None:
    world.launcher.nodes = Cluster(NODES.nodes[:1])
    one = world.started(resources={"gpus_per_trial": 0})
    failed = SEARCHING | {"excluded_nodes": ["n1"]}
    while world.show(one)["state"] == "RUNNING":
        clock.sleep(STEP_S)
        world.beat(one, failed)
        world.reconciler.reconcile_once()
    ended_at = datetime.now(UTC)
    world.beat(one, failed | {"phase": "paused"})
    while world.show(one)["state"] == "QUEUED":
        clock.sleep(STEP_S)
        world.reconciler.reconcile_once()
    assert timedelta(minutes=10) <= clock.now - ended_at < timedelta(minutes=11)
    assert world.launcher.launches[f"exp-{one}-a2"].excluded_nodes == []
