"""Whole GPUs: what an experiment demands while one of its trials needs a GPU for itself.

Its slots are parts of a GPU, and parts that are free need not be on one. So it gets whole GPUs instead, each of which
counts as the slots that it has room for: for that trial, or for several others. Pure. It must not know how slots are
divided.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from service.domain.cluster import Cluster
from service.scheduling.placement import Size, is_large_enough
from service.scheduling.shares import Demand, Share


def demand_whole(demand: Demand, slots: int, on_own: int, cluster: Cluster) -> Demand:
    """The demand in GPUs, each of which is `slots` slots, with the CPUs of as many trials as some node has room for:
    one for each of the `on_own` trials that need it for themselves, and as many as the others share."""
    on_own = min(on_own, demand.most)
    nodes = cluster.of_types(demand.gpu_types).nodes
    at_once = next((n for n in range(slots, 1, -1) if is_large_enough(nodes, Size.of(n * demand.cpus, 1))), 1)
    trials = Counter(demand.held)
    held = [node for node, count in trials.items() for _ in range(math.ceil(count / slots))]
    most = on_own + math.ceil((demand.most - on_own) / slots)
    return replace(demand, cpus=at_once * demand.cpus, gpus=1.0, most=most, held=tuple(held))


def in_slots(share: Share, slots: int) -> Share:
    """The share of such a demand, in slots of trials."""
    nodes = tuple(node for node in share.nodes for _ in range(slots))
    return replace(share, slots=share.slots * slots, nodes=nodes)
