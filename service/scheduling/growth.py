"""Growth: the slots for which nodes are lacking that Ray's autoscaler could add.

They are those that experiments would get if such nodes were there: what budgets, limits and holds forbid is not among
them. Pure; it must not know how Ray is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

from search_spaces.node_requests import SlotRequest
from search_spaces.pool_nodes import PoolNodes
from service.domain.cluster import Cluster
from service.scheduling.allocation import allocate
from service.scheduling.cost import Costs
from service.scheduling.pools import NODE_ID
from service.scheduling.shares import Demand, Grant, Pool, Share

#: New nodes of each kind, and further slots of one experiment, that are asked for at once; the next follow later.
MAX_NODES, MAX_SLOTS = 8, 64
#: All slots that are asked for at once: each is a placement group in Ray.
MAX_REQUESTED = 256


def lacking(
    pool: Pool,
    grants: Mapping[str, Grant],
    demands: Sequence[Demand],
    shares: Mapping[str, Share],
    cluster: Cluster,
    late: Collection[str] = (),
) -> dict[str, int]:
    """The further slots that each experiment would get on new nodes; only experiments that would get any, the one whose
    turn comes first before the others. `shares` is what they get on the living nodes of `cluster`.

    `late`: experiments whose nodes have not come for long. Others get what they would get without them: what waits for
    a node that never comes would otherwise keep its place, or the limit of its team, from those behind it.
    """
    if not cluster.possible:
        return {}
    now = {one.experiment_id: shares[one.experiment_id].slots for one in demands}
    wanting = [replace(one, most=min(one.most, now[one.experiment_id] + MAX_SLOTS)) for one in demands]
    grown = Cluster((*cluster.nodes, *cluster.possible * MAX_NODES), cluster.pool)

    def further(wanting: Sequence[Demand]) -> dict[str, int]:
        later = allocate(pool, grants, wanting, grown, Costs(cluster))
        found = {name: share.slots - now[name] for name, share in later.items() if share.slots > now[name]}
        return dict(sorted(found.items(), key=lambda one: later[one[0]].turn))

    of_all = further(wanting)
    if not late:
        return of_all
    resting = [replace(one, most=now[one.experiment_id]) if one.experiment_id in late else one for one in wanting]
    others = further(resting)
    return {name: max(others.get(name, 0), of_all.get(name, 0)) for name in (*others, *of_all)}


def requests(
    missing: Mapping[str, int], demands: Mapping[str, Demand], pool: PoolNodes, cluster: Cluster
) -> dict[str, SlotRequest]:
    """The slots of `missing`, by experiment, on nodes of `pool` that are not yet part of the whole `cluster`."""
    ids = sorted(node.id for node in cluster.nodes)
    living = {NODE_ID: f"!in({', '.join(ids)})"} if ids else {}
    found = {}
    for name, slots in missing.items():
        one = demands[name]
        selector = {**living, **pool.of_types(one.gpu_types).selector()}
        found[name] = SlotRequest(cpus=one.cpus, gpus=one.gpus, selector=selector, count=slots)
    return found


def merged(found: Iterable[SlotRequest]) -> list[SlotRequest]:
    """One request for each kind of slot, in the order of the first of each."""
    of_kind: dict[Hashable, SlotRequest] = {}
    for one in found:
        before = of_kind.get(one.kind)
        of_kind[one.kind] = one.model_copy(update={"count": one.count + before.count}) if before else one
    return list(of_kind.values())


def covered(requested: Iterable[SlotRequest], missing: Mapping[str, SlotRequest]) -> set[str]:
    """The experiments of `missing`, one pool's, for which at least one of the `requested` slots of the pool is."""
    left = Counter({one.kind: one.count for one in requested})
    found = set()
    for name, one in missing.items():
        if left[one.kind] > 0:
            found.add(name)
        left[one.kind] -= one.count
    return found


def bounded(found: Mapping[str, Sequence[SlotRequest]]) -> dict[str, list[SlotRequest]]:
    """Some slots of each pool and of each kind in it, MAX_REQUESTED in all. None waits for nodes of another pool or
    kind that never come: each has an equal part, and what it leaves is for those that request more."""
    parts = _divide(MAX_REQUESTED, [sum(one.count for one in some) for some in found.values()])
    return {
        name: [
            one.model_copy(update={"count": count})
            for one, count in zip(some, _divide(part, [one.count for one in some]), strict=True)
            if count
        ]
        for (name, some), part in zip(found.items(), parts, strict=True)
    }


def _divide(most: int, wanted: Sequence[int]) -> list[int]:
    """What each gets of `most`."""
    parts, left = [0] * len(wanted), most
    for done, index in enumerate(sorted(range(len(wanted)), key=lambda one: wanted[one])):
        parts[index] = min(wanted[index], left // (len(wanted) - done))
        left -= parts[index]
    return parts
