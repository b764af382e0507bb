"""Allocation as properties: no node is overbooked, no usable slot stays free, teams get what they were granted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.cluster import Cluster, Node
from service.scheduling.allocation import allocate
from service.scheduling.placement import Size, is_large_enough
from service.scheduling.shares import Demand, Grant, Pool, Share, Stop, Why

TEAMS, POOL = ("a", "b", "c"), Pool()

nodes = st.builds(Node, name=st.just("n"), cpus=st.integers(0, 16), gpus=st.integers(0, 4))
clusters = st.lists(nodes, max_size=4).map(
    lambda found: Cluster(tuple(replace(node, id=f"n{index}") for index, node in enumerate(found)))
)
sizes = st.tuples(st.integers(1, 8), st.sampled_from([0, 0.1, 0.25, 1 / 3, 0.5, 0.7, 1, 2, 4]))
wishes = st.tuples(sizes, st.integers(0, 12), st.booleans(), st.sampled_from([0, 0, 0, -5, 7]))
quotas = st.integers(0, 8)
grants = st.builds(
    Grant,
    weight=st.integers(1, 5),
    quota=quotas,
    limit=st.none() | st.integers(0, 12),
    max_running=st.none() | st.integers(0, 3),
    borrowed=st.integers(0, 2),
)
granted = st.dictionaries(st.sampled_from(TEAMS), grants)


@st.composite
def demands(draw: st.DrawFn, same_size: bool = False, same_priority: bool = False) -> list[Demand]:
    """Of one team."""
    one = draw(sizes)
    found = draw(st.lists(wishes, max_size=6))
    return [
        Demand(
            str(index),
            *(one if same_size else size),
            most=most,
            running=running,
            protected=running,
            priority=0 if same_priority else priority,
            submitted_at=index,
        )
        for index, (size, most, running, priority) in enumerate(found)
    ]


@st.composite
def of_teams(draw: st.DrawFn, same_size: bool = False, protected: bool = True) -> list[Demand]:
    """Of several teams and persons."""
    found = draw(demands(same_size=same_size))
    return [
        replace(
            demand,
            team=draw(st.sampled_from(TEAMS)),
            person=draw(st.sampled_from("xy")),
            protected=demand.protected and protected,
            submitted_at=draw(st.integers(0, 3)),
        )
        for demand in found
    ]


def slots(cluster: Cluster, asked: Sequence[Demand], **given: Grant) -> dict[str, int]:
    return {one: share.slots for one, share in allocate(POOL, given, asked, cluster).items()}


def by_team(asked: Sequence[Demand], shares: Mapping[str, Share]) -> Counter[str]:
    """Slots of each team."""
    found = Counter[str]()
    for demand in asked:
        found[demand.team] += shares[demand.experiment_id].slots
    return found


def capacity(cluster: Cluster, demand: Demand) -> int:
    """Slots of this size that fit in all."""
    return slots(cluster, [Demand("all", demand.cpus, demand.gpus, most=1000)])["all"]


def is_hungry(share: Share) -> bool:
    """Whether it would take a free slot, and no rule forbids it."""
    return share.why in {Why.TEAM, Why.SHARE}


@given(clusters, of_teams(), granted)
def test_no_experiment_gets_more_than_it_demands_and_no_node_is_overbooked(
    cluster: Cluster, asked: list[Demand], given: dict[str, Grant]
) -> None:
    shares = allocate(POOL, given, asked, cluster)
    assert shares.keys() == {demand.experiment_id for demand in asked}
    for demand in asked:
        share = shares[demand.experiment_id]
        assert 0 <= share.slots <= demand.most
        assert len(share.nodes) == share.slots
    for node in cluster.nodes:
        here = [(one, shares[one.experiment_id].nodes.count(node.id)) for one in asked]
        assert sum(count * one.cpus for one, count in here) <= node.cpus
        assert sum(count * one.gpus for one, count in here) <= node.gpus + 1e-9
        assert sum(count for one, count in here if 0.5 < one.gpus <= 1) <= node.gpus, "no share spans two GPUs"


@given(clusters, demands(same_size=True, same_priority=True))
def test_equal_demands_differ_by_one_slot_at_most_and_the_older_has_it(cluster: Cluster, asked: list[Demand]) -> None:
    found = slots(cluster, asked)
    hungry = [d for d in asked if found[d.experiment_id] < d.most]
    for demand in hungry:
        for other in asked:
            assert found[other.experiment_id] <= found[demand.experiment_id] + 1
            if other in hungry and other.running == demand.running and other.submitted_at < demand.submitted_at:
                assert found[other.experiment_id] >= found[demand.experiment_id]


@given(clusters, of_teams(), granted, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    cluster: Cluster, asked: list[Demand], given: dict[str, Grant], random: Any
) -> None:
    shuffled = random.sample(asked, len(asked))
    assert allocate(POOL, given, asked, cluster) == allocate(POOL, given, shuffled, cluster)


@given(clusters, of_teams(same_size=True), granted)
def test_no_slot_stays_free_that_an_experiment_may_use(
    cluster: Cluster, asked: list[Demand], given: dict[str, Grant]
) -> None:
    shares = allocate(POOL, given, asked, cluster)
    if any(is_hungry(share) for share in shares.values()):
        assert sum(share.slots for share in shares.values()) == capacity(cluster, asked[0])


@given(clusters, demands())
def test_protected_experiments_get_their_first_slot_before_all_others(cluster: Cluster, asked: list[Demand]) -> None:
    protected = [d for d in asked if d.protected and d.most]
    found = slots(cluster, asked)
    without = slots(cluster, [replace(d, most=1) for d in protected])
    for demand in protected:
        assert found[demand.experiment_id] >= without[demand.experiment_id]


@given(clusters, demands(same_size=True))
def test_a_higher_priority_takes_all_slots_except_the_first_of_each_protected_experiment(
    cluster: Cluster, asked: list[Demand]
) -> None:
    found = slots(cluster, asked)
    for high in asked:
        if found[high.experiment_id] == high.most:
            continue
        for low in asked:
            if low.priority < high.priority:
                assert found[low.experiment_id] <= (1 if low.protected else 0)
            elif low.priority == high.priority:
                assert found[low.experiment_id] <= found[high.experiment_id] + 1


@given(clusters, demands())
def test_lower_priorities_do_not_change_what_a_higher_one_gets(cluster: Cluster, asked: list[Demand]) -> None:
    found = slots(cluster, asked)
    top = max((d.priority for d in asked), default=0)
    without = slots(cluster, [d for d in asked if d.priority == top or d.running])
    for demand in asked:
        if demand.priority == top:
            assert found[demand.experiment_id] == without[demand.experiment_id]


@given(clusters, of_teams(), granted)
def test_no_team_exceeds_its_limit_or_its_number_of_experiments(
    cluster: Cluster, asked: list[Demand], given: dict[str, Grant]
) -> None:
    shares = allocate(POOL, given, asked, cluster)
    for team, grant in given.items():
        own = [(one, shares[one.experiment_id].slots) for one in asked if one.team == team]
        for resource, total in (("cpus", cluster.cpus), ("gpus", cluster.gpus)):
            if grant.limit is not None and total:
                used = sum(count * getattr(one, resource) for one, count in own)
                unit = (cluster.gpus or cluster.cpus) / total
                assert used * unit <= grant.limit + 1e-3, "the limit is one of each resource, in GPUs"
        started = sum(count > 0 and not one.protected for one, count in own)
        assert grant.max_running is None or started <= grant.max_running


@given(st.integers(0, 12), of_teams(same_size=True, protected=False), st.tuples(quotas, quotas, quotas))
def test_a_team_gets_its_quota_if_all_quotas_fit(
    cpus: int, asked: list[Demand], quota_of_each: tuple[int, int, int]
) -> None:
    cluster = Cluster((Node("n", cpus=cpus),))
    asked = [replace(one, cpus=1, gpus=0) for one in asked]
    given = {team: Grant(quota=quota) for team, quota in zip(TEAMS, quota_of_each, strict=True)}
    if sum(quota_of_each) > cpus:
        return
    found = by_team(asked, allocate(POOL, given, asked, cluster))
    for team, quota in zip(TEAMS, quota_of_each, strict=True):
        assert found[team] >= min(quota, sum(one.most for one in asked if one.team == team))


@given(clusters, of_teams(protected=False), granted)
def test_what_an_allocation_gives_is_what_the_next_one_gives(
    cluster: Cluster, asked: list[Demand], given: dict[str, Grant]
) -> None:
    shares = allocate(POOL, given, asked, cluster)
    held = [_holding(one, shares[one.experiment_id]) for one in asked]
    assert _given(allocate(POOL, given, held, cluster)) == _given(shares)


@given(clusters, of_teams(same_size=True, protected=False), granted, st.sets(st.integers(0, 6)))
def test_protection_of_what_was_given_changes_nothing(
    cluster: Cluster, asked: list[Demand], given: dict[str, Grant], protected: set[int]
) -> None:
    shares = allocate(POOL, given, asked, cluster)
    held = [_holding(one, shares[one.experiment_id]) for one in asked]
    held = [replace(one, protected=bool(one.held) and int(one.experiment_id) in protected) for one in held]
    assert slots_of(allocate(POOL, given, held, cluster)) == slots_of(shares)


@given(clusters, of_teams(), granted, st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=6, max_size=6))
def test_shares_become_stable_whatever_runs_at_first(
    cluster: Cluster, asked: list[Demand], given: dict[str, Grant], running_on: list[list[int]]
) -> None:
    """At once, unless trials have to move to another node first."""
    for index, places in enumerate(running_on[: len(asked)]):
        held = tuple(f"n{place}" for place in places if place < len(cluster.nodes))
        asked[index] = replace(asked[index], held=held, running=asked[index].running or bool(held))
    shares = allocate(POOL, given, asked, cluster)
    for _ in range(3):
        before = shares
        asked = [_holding(one, before[one.experiment_id]) for one in asked]
        shares = allocate(POOL, given, asked, cluster)
        if not any(share.why is Why.MOVING for share in before.values()):
            break
    assert _given(shares) == _given(before)


def _holding(demand: Demand, share: Share) -> Demand:
    """What runs after an allocation. A driver that only delivers demands nothing, and runs until it has delivered."""
    return replace(demand, held=share.nodes, running=share.slots > 0 if demand.most else demand.running)


def slots_of(shares: Mapping[str, Share]) -> dict[str, int]:
    return {one: share.slots for one, share in shares.items()}


def _given(shares: Mapping[str, Share]) -> dict[str, tuple[str, ...]]:
    return {one: share.nodes for one, share in shares.items()}


@given(st.integers(0, 12), of_teams(same_size=True, protected=False), granted, st.integers(1, 4))
def test_a_larger_weight_or_quota_never_costs_a_team_slots(
    cpus: int, asked: list[Demand], given: dict[str, Grant], more: int
) -> None:
    cluster, asked = Cluster((Node("n", cpus=cpus),)), [replace(one, cpus=1, gpus=0) for one in asked]
    before = by_team(asked, allocate(POOL, given, asked, cluster))["a"]
    grant = given.get("a", Grant())
    for better in (replace(grant, weight=grant.weight + more), replace(grant, quota=grant.quota + more)):
        assert by_team(asked, allocate(POOL, {**given, "a": better}, asked, cluster))["a"] >= before


@given(st.integers(0, 12), of_teams(same_size=True, protected=False), st.integers(2, 4))
def test_splitting_a_search_gains_nothing(cpus: int, asked: list[Demand], parts: int) -> None:
    cluster, asked = Cluster((Node("n", cpus=cpus),)), [replace(one, cpus=1, gpus=0, priority=0) for one in asked]
    if not asked:
        return
    whole, *others = asked
    split = [
        replace(whole, experiment_id=f"{whole.experiment_id}.{part}", most=len(range(part, whole.most, parts)))
        for part in range(parts)
    ]

    def of_person(found: Sequence[Demand]) -> int:
        given = slots(cluster, found)
        same = [one for one in found if (one.team, one.person) == (whole.team, whole.person)]
        return sum(given[one.experiment_id] for one in same)

    assert of_person([*split, *others]) <= of_person(asked)


def test_weights_divide_what_no_quota_guarantees() -> None:
    eight = Cluster((Node("n", cpus=64, gpus=8),))
    three, one = Demand("t", 1, 1, most=99, team="a"), Demand("o", 1, 1, most=99, team="b")
    assert slots(eight, [three, one]) == {"t": 4, "o": 4}
    assert slots(eight, [three, one], a=Grant(weight=3)) == {"t": 6, "o": 2}
    assert slots(eight, [three, one], b=Grant(quota=4), a=Grant(weight=3)) == {"t": 3, "o": 5}
    assert slots(eight, [three, one], a=Grant(limit=2)) == {"t": 2, "o": 6}
    assert slots(eight, [three], b=Grant(quota=4)) == {"t": 8}, "what nobody uses is lent"


def test_quotas_beyond_the_capacity_are_filled_evenly() -> None:
    """Also when a node has left."""
    three, one = Demand("t", 1, most=99, team="a"), Demand("o", 1, most=99, team="b")
    given = {"a": Grant(quota=12), "b": Grant(quota=4)}
    assert slots(Cluster((Node("n", cpus=8),)), [three, one], **given) == {"t": 6, "o": 2}


def test_a_slot_costs_its_dominant_resource() -> None:
    cluster = Cluster((Node("n", cpus=64, gpus=8),))
    greedy, modest = Demand("g", 16, 1, most=99, team="a"), Demand("m", 1, 1, most=99, team="b")
    assert slots(cluster, [greedy, modest]) == {"g": 3, "m": 5}, "16 CPUs count as two GPUs"


def test_priority_stays_inside_a_team_and_below_its_ceiling() -> None:
    four = Cluster((Node("n", cpus=4),))
    high = Demand("high", 1, most=9, team="a", priority=100)
    own, other = Demand("own", 1, most=9, team="a"), Demand("other", 1, most=9, team="b")
    assert slots(four, [high, own, other]) == {"high": 2, "own": 0, "other": 2}
    capped = slots(four, [high, own, other], a=Grant(max_priority=0))
    assert capped == {"high": 1, "own": 1, "other": 2}


def test_a_person_with_many_experiments_gets_no_more_than_one_with_one() -> None:
    eight = Cluster((Node("n", cpus=8),))
    many = [Demand(str(index), 1, most=9, person="x") for index in range(7)]
    found = slots(eight, [*many, Demand("one", 1, most=9, person="y", submitted_at=1)])
    assert (found["one"], sum(found.values())) == (4, 8)


def test_what_was_borrowed_decides_only_between_equals() -> None:
    three = Cluster((Node("n", cpus=3),))
    one, other = Demand("o", 1, most=9, team="a"), Demand("p", 1, most=9, team="b")
    assert slots(three, [one, other]) == {"o": 2, "p": 1}
    assert slots(three, [one, other], a=Grant(borrowed=5)) == {"o": 1, "p": 2}
    assert slots(three, [one, other], a=Grant(borrowed=500)) == {"o": 1, "p": 2}


def test_what_runs_yields_its_slots_unless_it_is_protected() -> None:
    one = Cluster((Node("a", cpus=1),))
    old = Demand("old", 1, most=9, running=True)
    young = Demand("young", 1, most=3, priority=1, submitted_at=1)
    assert slots(one, [old, young]) == {"old": 0, "young": 1}
    assert slots(one, [replace(old, protected=True), young]) == {"old": 1, "young": 0}
    four = Cluster((Node("a", cpus=4),))
    assert slots(four, [replace(old, protected=True), young]) == {"old": 1, "young": 3}
    assert slots(four, [replace(old, running=False), young]) == {"old": 1, "young": 3}, "priority before age"


def test_each_share_says_why_it_is_not_larger() -> None:
    cluster = Cluster((Node("n", cpus=4),))

    def why(*asked: Demand, pool: Pool = POOL, **given: Grant) -> list[Why]:
        shares = allocate(pool, given, asked, cluster)
        return [shares[one.experiment_id].why for one in asked]

    one, two = Demand("1", 1, most=9, team="a"), Demand("2", 1, most=9, team="b", submitted_at=1)
    assert why(replace(one, most=4)) == [Why.ENOUGH]
    assert why(one) == [Why.TEAM], "others of its team, here none"
    assert why(one, two) == [Why.SHARE, Why.SHARE]
    assert why(replace(one, cpus=5)) == [Why.NODE]
    assert why(replace(one, excluded=frozenset({""}))) == [Why.NODE]
    assert why(one, a=Grant(limit=2)) == [Why.LIMIT]
    assert why(one, replace(two, team="a"), a=Grant(max_running=1))[1] is Why.MAX_RUNNING
    assert why(one, two, pool=Pool(max_running=1))[1] is Why.DRIVERS
    both = (replace(one, team="a", running=True, protected=True), replace(two, team="a", running=True, protected=True))
    assert why(*both, a=Grant(max_running=1))[1] is Why.MAX_RUNNING, "a limit that is lowered takes effect at once"
    assert why(one, replace(two, running=True), pool=Pool(stop=Stop.HOLD)) == [Why.HOLD, Why.TEAM]
    assert why(replace(one, running=True, protected=True), pool=Pool(stop=Stop.DRAIN)) == [Why.HOLD]


def test_turns_are_the_order_of_those_that_wait() -> None:
    one = Cluster((Node("n", cpus=1),))
    asked = [Demand(str(index), 1, most=9, submitted_at=-index, priority=index == 1) for index in range(4)]
    shares = allocate(POOL, {}, asked, one)
    assert sorted(shares, key=lambda each: shares[each].turn) == ["1", "3", "2", "0"]


def test_a_team_needs_a_weight() -> None:
    with pytest.raises(ValueError, match=r"weight must be at least 1 \(got 0\)"):
        Grant(weight=0)


def test_a_fraction_of_a_gpu_never_spans_two_gpus() -> None:
    two = Cluster((Node("a", cpus=64, gpus=2),))
    assert slots(two, [Demand("x", 1, 0.3, most=99)]) == {"x": 6}
    assert slots(two, [Demand("x", 1, 1 / 3, most=99)]) == {"x": 6}
    assert slots(two, [Demand("x", 1, 2, most=99), Demand("y", 1, 0.5, most=99)]) == {"x": 1, "y": 0}


def test_a_trial_needs_its_resources_on_one_node() -> None:
    cluster = Cluster((Node("cpu", cpus=16), Node("gpu", cpus=2, gpus=4)))
    assert is_large_enough(cluster.nodes, Size.of(16, 0))
    assert is_large_enough(cluster.nodes, Size.of(2, 4))
    assert not is_large_enough(cluster.nodes, Size.of(4, 1))
    assert not is_large_enough((), Size.of(1, 0))


def test_the_gpus_of_a_trial_are_on_one_node() -> None:
    small = tuple(Node(f"small {number}", cpus=8, gpus=1) for number in range(3))
    cluster = Cluster((Node("large", cpus=64, gpus=5), *small))
    assert slots(cluster, [Demand("x", 4, 2, most=99)]) == {"x": 2}
    assert slots(Cluster(small), [Demand("x", 4, 2, most=99)]) == {"x": 0}


def test_trials_without_gpus_prefer_nodes_without_gpus() -> None:
    cluster = Cluster((Node("gpu", cpus=4, gpus=1), Node("cpu", cpus=4)))
    assert slots(cluster, [Demand("c", 4, 0, most=1), Demand("g", 4, 1, most=1)]) == {"c": 1, "g": 1}


def test_slots_of_a_node_that_an_experiment_does_not_use_are_for_the_others() -> None:
    cluster = Cluster((Node("a", cpus=4, id="n1"), Node("b", cpus=4, id="n2")))
    one, other = (Demand(name, 1, most=9, running=True, protected=True) for name in ("one", "other"))
    assert slots(cluster, [one, other]) == {"one": 4, "other": 4}
    for excluded in ("n1", "n2"):
        limited = replace(one, excluded=frozenset({excluded}))
        assert slots(cluster, [limited, other]) == {"one": 4, "other": 4}, "each on its own node"
        assert slots(cluster, [limited, replace(other, most=1)]) == {"one": 4, "other": 1}
        assert slots(cluster, [limited, replace(other, priority=1)]) == {"one": 1, "other": 7}
    assert slots(cluster, [replace(one, excluded=frozenset({"n1", "n2"})), other]) == {"one": 0, "other": 8}


def test_a_size_that_is_full_for_one_is_not_full_for_another_that_uses_more_nodes() -> None:
    cluster = Cluster((Node("a", cpus=2, id="n1"), Node("b", cpus=2, id="n2")))
    limited = Demand("limited", 2, most=2, excluded=frozenset({"n1"}))
    assert slots(cluster, [limited, Demand("other", 2, most=2)]) == {"limited": 1, "other": 1}


def test_trials_without_gpus_leave_gpus_to_those_that_want_them_also_where_others_exclude_them() -> None:
    cluster = Cluster((Node("cpu", cpus=8, id="n1"), Node("gpu", cpus=8, gpus=1, id="n2")))
    limited = Demand("limited", 1, most=9, running=True, protected=True, excluded=frozenset({"n2"}))
    urgent = Demand("urgent", 1, most=7, priority=1, running=True, protected=True, submitted_at=1)
    waiting = Demand("waiting", 4, 1, submitted_at=2)
    assert slots(cluster, [limited, urgent, waiting]) == {"limited": 2, "urgent": 7, "waiting": 1}
    assert slots(cluster, [limited, urgent]) == {"limited": 8, "urgent": 7}, "nobody wants the GPU"


def test_a_running_experiment_keeps_its_first_slot_if_others_could_spare_a_gpu() -> None:
    cluster = Cluster((Node("cpu", cpus=2, id="n1"), Node("gpu", cpus=8, gpus=1, id="n2")))
    others = [Demand(name, 1, most=1, running=True) for name in ("a", "b", "c")]
    limited = Demand("limited", 1, running=True, excluded=frozenset({"n2"}))
    assert slots(cluster, [*others, limited, Demand("gpu", 8, 1, submitted_at=1)])["limited"] == 1


TWO = Cluster((Node("1", cpus=9, gpus=4, id="n1"), Node("2", cpus=9, gpus=4, id="n2")))


def test_a_new_trial_goes_where_nothing_runs() -> None:
    """Packed by numbers only, all small ones would be on one node and the large one on the other."""
    spread = Demand("spread", 1, 1, most=4, running=True, held=("n1", "n1", "n2", "n2"))
    shares = allocate(POOL, {}, [spread, Demand("new", 1, 2, most=1, submitted_at=1)], TWO)
    assert shares["spread"].nodes == ("n1", "n1", "n2", "n2")
    assert shares["new"].slots == 1


def test_a_large_trial_is_not_promised_a_node_on_which_others_stay() -> None:
    """The older one keeps the first slot where it is; the others leave before it may start new ones elsewhere."""
    spread = Demand("spread", 1, 1, most=4, running=True, held=("n1", "n2", "n1", "n2"))
    large = Demand("large", 1, 4, submitted_at=1)
    held, rounds = spread.held, 0
    while rounds < 9:
        shares = allocate(POOL, {}, [replace(spread, held=held), large], TWO)
        if shares["spread"].slots >= len(held):
            break
        held, rounds = held[len(held) - shares["spread"].slots :], rounds + 1  # whose epoch ends first is chance
    assert not {*shares["large"].nodes} & {*held}, "the node is free"
    assert (shares["large"].slots, shares["spread"].slots, rounds) == (1, 4, 2), "all have what they can use in the end"


@pytest.mark.parametrize("minimum", [1, 3, 6])
def test_small_trials_that_keep_coming_do_not_starve_a_large_one(minimum: int) -> None:
    """Each runs for as long as it is protected, and two new ones come for each that ends."""
    started: dict[str, tuple[int, str]] = {}
    large = Demand("large", 1, 4, submitted_at=0)
    names = (f"small-{index:03d}" for index in range(1000))
    waiting = [next(names) for _ in range(20)]
    running_until: dict[str, int] = {}
    for now in range(3 * minimum + 2):
        for name in [one for one, until in running_until.items() if until <= now]:
            del running_until[name], started[name]
            waiting += [next(names), next(names)]
        small = [Demand(name, 1, 1, submitted_at=1) for name in waiting]
        for name, (since, node) in started.items():
            small.append(
                Demand(name, 1, 1, running=True, submitted_at=1, held=(node,), protected=now - since < minimum)
            )
        asked = [*small, large] if now > minimum else small  # all slots are taken when it comes
        shares = allocate(POOL, {}, asked, TWO)
        if now > minimum and shares["large"].slots:
            return
        for name in list(waiting):
            if shares[name].slots:
                waiting.remove(name)
                started[name] = now, shares[name].nodes[0]
                running_until[name] = now + minimum + int(name[-1]) % 2
    pytest.fail("the large trial never got a node")
