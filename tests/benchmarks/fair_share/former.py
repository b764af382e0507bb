"""Allocation: how many trials each experiment may run at once. A pure function of cluster and demands.

A slot is what one trial uses: CPUs and GPUs of a single node. A running experiment keeps its first slot. Beyond that,
higher priorities are served before lower ones; within a priority, slots are given one at a time to the experiment that
has the fewest, until nothing more fits: max-min fairness, first come first served among equals. A node that some
experiments do not use is given to the others first, but beyond first slots GPUs that somebody demands are left free
where possible. It must not know the database, Ray or a clock.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from service.domain.cluster import Cluster

UNITS = 10_000  # Ray counts resources in ten-thousandths; whole numbers keep three thirds within one


@dataclass(frozen=True)
class Demand:
    """Up to `most` slots of this size, on nodes whose ids are not `excluded`.

    If the experiment is `running`, its first slot comes before all others.
    """

    experiment_id: str
    cpus: float
    gpus: float = 0
    most: int = 1
    running: bool = False
    priority: int = 0
    excluded: frozenset[str] = frozenset()


@dataclass
class _Free:
    """What is free on a node: CPUs, and each GPU separately, because a fraction of a GPU never spans two.

    `excluders` is the number of demands that exclude it.
    """

    node: str
    excluders: int
    cpus: int
    gpus: list[int] = field(default_factory=list)

    def fits(self, cpus: int, gpus: int, excluded: frozenset[str]) -> bool:
        if self.cpus < cpus or self.node in excluded:
            return False
        if gpus <= UNITS:
            return gpus == 0 or any(free >= gpus for free in self.gpus)
        return sum(free == UNITS for free in self.gpus) * UNITS >= gpus

    def take(self, cpus: int, gpus: int) -> None:
        self.cpus -= cpus
        if 0 < gpus <= UNITS:
            _, index = min((free, index) for index, free in enumerate(self.gpus) if free >= gpus)
            self.gpus[index] -= gpus
        elif gpus:
            whole = [index for index, free in enumerate(self.gpus) if free == UNITS]
            for index in whole[: gpus // UNITS]:
                self.gpus[index] = 0


def allocate(cluster: Cluster, demands: Sequence[Demand]) -> dict[str, int]:
    """The slots of each experiment; zero means wait. `demands` are in the order of submission."""
    excluders = Counter(node for demand in demands for node in demand.excluded)
    free = [
        _Free(node.id, excluders[node.id], int(node.cpus * UNITS), [UNITS] * int(node.gpus)) for node in cluster.nodes
    ]
    slots = {demand.experiment_id: 0 for demand in demands}
    wanting = sorted((d for d in demands if d.most > 0), key=lambda d: (-d.priority, not d.running))
    wants_gpus = any(demand.gpus for demand in wanting)
    full: set[tuple[int, int, frozenset[str]]] = set()  # what no longer fits: nothing is released meanwhile

    def serve(hungry: list[Demand], upto: int, spares_gpus: bool = wants_gpus) -> list[Demand]:
        """Give one more slot to each that has fewer than `upto`; return those that want more."""
        left = []
        for demand in hungry:
            if slots[demand.experiment_id] < upto:
                size = round(demand.cpus * UNITS), round(demand.gpus * UNITS), demand.excluded
                if size in full or not _place(free, *size, spares_gpus):
                    full.add(size)
                    continue
                slots[demand.experiment_id] += 1
            if slots[demand.experiment_id] < demand.most:
                left.append(demand)
        return left

    serve([demand for demand in wanting if demand.running], upto=1, spares_gpus=False)
    for _, level in itertools.groupby(wanting, key=lambda d: d.priority):
        hungry, upto = list(level), 0
        while hungry:
            upto += 1
            hungry = serve(hungry, upto)
    return slots


def fits_somewhere(cluster: Cluster, cpus: float, gpus: float) -> bool:
    """Whether some node, when empty, could hold one such trial."""
    return allocate(cluster, [Demand("probe", cpus, gpus)])["probe"] == 1


def _place(free: list[_Free], cpus: int, gpus: int, excluded: frozenset[str], spares_gpus: bool) -> bool:
    """Take one slot of the node that it fills best: first come nodes that fewer experiments can use, then, for trials
    without GPUs, those without GPUs; these come before all others if it `spares_gpus`."""
    fitting = [node for node in free if node.fits(cpus, gpus, excluded)]
    if not fitting:
        return False

    def rank(node: _Free) -> tuple[int, int, int, int]:
        of_gpus = sum(node.gpus)
        return of_gpus if spares_gpus and not gpus else 0, -node.excluders, of_gpus, node.cpus

    min(fitting, key=rank).take(cpus, gpus)
    return True
