"""Allocation as properties: no node is overbooked, no usable slot stays free, no experiment is starved."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from service.domain.cluster import Cluster, Node
from service.scheduling.allocation import Demand, allocate, fits_somewhere

nodes = st.builds(Node, name=st.just("n"), cpus=st.integers(0, 16), gpus=st.integers(0, 4))
clusters = st.lists(nodes, max_size=4).map(lambda found: Cluster(tuple(found)))
sizes = st.tuples(st.integers(1, 8), st.sampled_from([0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 1, 2, 4]))
wishes = st.tuples(sizes, st.integers(0, 12), st.booleans(), st.sampled_from([0, 0, 0, -5, 7]))


@st.composite
def demands(draw: st.DrawFn, same_size: bool = False, same_priority: bool = False) -> list[Demand]:
    one = draw(sizes)
    found = draw(st.lists(wishes, max_size=6))
    return [
        Demand(
            str(index),
            *(one if same_size else size),
            most=most,
            running=running,
            priority=0 if same_priority else priority,
        )
        for index, (size, most, running, priority) in enumerate(found)
    ]


@given(clusters, demands())
def test_no_experiment_gets_more_than_it_demands_and_no_node_is_overbooked(
    cluster: Cluster, asked: list[Demand]
) -> None:
    slots = allocate(cluster, asked)
    assert slots.keys() == {demand.experiment_id for demand in asked}
    for demand in asked:
        assert 0 <= slots[demand.experiment_id] <= demand.most
    assert sum(slots[d.experiment_id] * d.cpus for d in asked) <= cluster.cpus
    assert sum(slots[d.experiment_id] * d.gpus for d in asked) <= cluster.gpus + 1e-9


@given(clusters, demands(same_size=True, same_priority=True))
def test_equal_demands_differ_by_one_slot_at_most_and_the_older_has_it(cluster: Cluster, asked: list[Demand]) -> None:
    slots = allocate(cluster, asked)
    hungry = [d for d in asked if slots[d.experiment_id] < d.most]
    for demand in hungry:
        for other in asked:
            assert slots[other.experiment_id] <= slots[demand.experiment_id] + 1
            if (
                other in hungry
                and other.running == demand.running
                and int(other.experiment_id) < int(demand.experiment_id)
            ):
                assert slots[other.experiment_id] >= slots[demand.experiment_id]


@given(clusters, demands(same_size=True))
def test_the_sum_does_not_depend_on_the_order(cluster: Cluster, asked: list[Demand]) -> None:
    assert sum(allocate(cluster, asked).values()) == sum(allocate(cluster, asked[::-1]).values())


@given(clusters, demands(same_size=True))
def test_no_slot_stays_free_that_an_experiment_could_use(cluster: Cluster, asked: list[Demand]) -> None:
    slots = allocate(cluster, asked)
    if any(slots[d.experiment_id] < d.most for d in asked):
        alone = allocate(cluster, [Demand("all", asked[0].cpus, asked[0].gpus, most=1000)])["all"]
        assert sum(slots.values()) == alone


@given(clusters, demands())
def test_running_experiments_get_their_first_slot_before_queued_ones(cluster: Cluster, asked: list[Demand]) -> None:
    running = [d for d in asked if d.running and d.most]
    slots = allocate(cluster, asked)
    without = allocate(cluster, [replace(d, most=1) for d in running])
    for demand in running:
        assert slots[demand.experiment_id] >= without[demand.experiment_id]


@given(clusters, demands(same_size=True))
def test_a_higher_priority_takes_all_slots_except_the_first_of_each_running_experiment(
    cluster: Cluster, asked: list[Demand]
) -> None:
    slots = allocate(cluster, asked)
    for high in asked:
        if slots[high.experiment_id] == high.most:
            continue
        for low in asked:
            if low.priority < high.priority:
                assert slots[low.experiment_id] <= (1 if low.running else 0)
            elif low.priority == high.priority:
                assert slots[low.experiment_id] <= slots[high.experiment_id] + 1


@given(clusters, demands())
def test_lower_priorities_do_not_change_what_a_higher_one_gets(cluster: Cluster, asked: list[Demand]) -> None:
    slots = allocate(cluster, asked)
    top = max((d.priority for d in asked), default=0)
    without = allocate(cluster, [d for d in asked if d.priority == top or d.running])
    for demand in asked:
        if demand.priority == top:
            assert slots[demand.experiment_id] == without[demand.experiment_id]


def test_priority_comes_before_age() -> None:
    four = Cluster((Node("a", cpus=4),))
    old, young = Demand("old", 1, most=9), Demand("young", 1, most=3, priority=1)
    assert allocate(four, [old, young]) == {"old": 1, "young": 3}
    running = Demand("old", 1, most=9, running=True)
    assert allocate(four, [running, Demand("young", 1, most=9, priority=1)]) == {"old": 1, "young": 3}
    one = Cluster((Node("a", cpus=1),))
    assert allocate(one, [running, young]) == {"old": 1, "young": 0}, "what runs keeps its first slot"


def test_a_fraction_of_a_gpu_never_spans_two_gpus() -> None:
    two = Cluster((Node("a", cpus=64, gpus=2),))
    assert allocate(two, [Demand("x", 1, 0.3, most=99)]) == {"x": 6}
    assert allocate(two, [Demand("x", 1, 1 / 3, most=99)]) == {"x": 6}
    assert allocate(two, [Demand("x", 1, 2, most=99), Demand("y", 1, 0.5, most=99)]) == {"x": 1, "y": 0}


def test_a_trial_needs_its_resources_on_one_node() -> None:
    cluster = Cluster((Node("cpu", cpus=16), Node("gpu", cpus=2, gpus=4)))
    assert fits_somewhere(cluster, 16, 0)
    assert fits_somewhere(cluster, 2, 4)
    assert not fits_somewhere(cluster, 4, 1)
    assert not fits_somewhere(Cluster(), 1, 0)


def test_trials_without_gpus_prefer_nodes_without_gpus() -> None:
    cluster = Cluster((Node("gpu", cpus=4, gpus=1), Node("cpu", cpus=4)))
    assert allocate(cluster, [Demand("c", 4, 0, most=1), Demand("g", 4, 1, most=1)]) == {"c": 1, "g": 1}


def test_slots_of_a_node_that_an_experiment_does_not_use_are_for_the_others() -> None:
    cluster = Cluster((Node("a", cpus=4, id="n1"), Node("b", cpus=4, id="n2")))
    one, other = Demand("one", 1, most=9, running=True), Demand("other", 1, most=9, running=True)
    assert allocate(cluster, [one, other]) == {"one": 4, "other": 4}
    for excluded in ("n1", "n2"):
        limited = replace(one, excluded=frozenset({excluded}))
        assert allocate(cluster, [limited, other]) == {"one": 4, "other": 4}, "each on its own node"
        assert allocate(cluster, [other, limited]) == {"one": 4, "other": 4}
        assert allocate(cluster, [limited, replace(other, most=1)]) == {"one": 4, "other": 1}
        assert allocate(cluster, [limited, replace(other, priority=1)]) == {"one": 1, "other": 7}
    assert allocate(cluster, [replace(one, excluded=frozenset({"n1", "n2"})), other]) == {"one": 0, "other": 8}


def test_a_size_that_is_full_for_one_is_not_full_for_another_that_uses_more_nodes() -> None:
    cluster = Cluster((Node("a", cpus=2, id="n1"), Node("b", cpus=2, id="n2")))
    limited = Demand("limited", 2, most=2, excluded=frozenset({"n1"}))
    assert allocate(cluster, [limited, Demand("other", 2, most=2)]) == {"limited": 1, "other": 1}


def test_trials_without_gpus_leave_gpus_to_those_that_want_them_also_where_others_exclude_them() -> None:
    cluster = Cluster((Node("cpu", cpus=8, id="n1"), Node("gpu", cpus=8, gpus=1, id="n2")))
    limited = Demand("limited", 1, most=9, running=True, excluded=frozenset({"n2"}))
    urgent, waiting = Demand("urgent", 1, most=7, priority=1, running=True), Demand("waiting", 4, 1)
    assert allocate(cluster, [limited, urgent, waiting]) == {"limited": 2, "urgent": 7, "waiting": 1}
    assert allocate(cluster, [limited, urgent]) == {"limited": 8, "urgent": 7}, "nobody wants the GPU"


def test_a_running_experiment_keeps_its_first_slot_if_others_could_spare_a_gpu() -> None:
    cluster = Cluster((Node("cpu", cpus=2, id="n1"), Node("gpu", cpus=8, gpus=1, id="n2")))
    others = [Demand(name, 1, most=1, running=True) for name in ("a", "b", "c")]
    limited = Demand("limited", 1, running=True, excluded=frozenset({"n2"}))
    assert allocate(cluster, [*others, limited, Demand("gpu", 8, 1)])["limited"] == 1
