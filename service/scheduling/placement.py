"""Placement: on which node of a cluster the next slot is, so that what is promised can be placed.

A slot is what one trial uses: CPUs and GPUs of a single node; a fraction of a GPU never spans two. Owns what is free on
each node, and the choice among nodes. It must not know teams, shares or the order in which slots are given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from search_spaces.resources import PlacementRule
from service.domain.cluster import Cluster, Node

UNITS = 10_000  # Ray counts resources in ten-thousandths; whole numbers keep three thirds within one


@dataclass(frozen=True)
class Size:
    """What a trial uses, in ten-thousandths, on nodes whose ids are not `excluded`, with GPUs of one of `gpu_types`, if
    there are any."""

    cpus: int
    gpus: int
    excluded: frozenset[str] = frozenset()
    gpu_types: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        cpus: float,
        gpus: float,
        excluded: frozenset[str] = frozenset(),
        gpu_types: frozenset[str] = frozenset(),
    ) -> Size:
        return cls(round(cpus * UNITS), round(gpus * UNITS), excluded, gpu_types)

    @property
    def is_choosy(self) -> bool:
        """Whether there are nodes that it may not be on, however large they are."""
        return bool(self.excluded or self.gpu_types)

    def allows(self, node: Node) -> bool:
        """Whether such a trial may be on a node, however large that is."""
        return node.id not in self.excluded and (not self.gpu_types or node.gpu_type in self.gpu_types)


@dataclass
class _Room:
    """What is free on a node: CPUs, and each GPU separately.

    `excluders` is the number of demands that may not use it. `kept_...` is what protected slots use, `held_...` what
    trials hold now whose turn has not come. A `claimed` node takes no new trial until a larger one fits.
    """

    node: Node
    excluders: int
    cpus: int
    gpus: list[int]
    kept_cpus: int = 0
    kept_gpus: list[int] = field(default_factory=list)
    held_cpus: int = 0
    held_gpus: int = 0
    claimed: bool = False

    def fits(self, size: Size, without_protected: bool = False) -> bool:
        cpus = self.cpus + (self.kept_cpus if without_protected else 0)
        if cpus < size.cpus or not size.allows(self.node):
            return False
        if not size.gpus:
            return True
        gpus = self.gpus
        if without_protected:
            gpus = [free + kept for free, kept in zip(gpus, self.kept_gpus, strict=True)]
        if size.gpus <= UNITS:
            return any(free >= size.gpus for free in gpus)
        return sum(free == UNITS for free in gpus) * UNITS >= size.gpus

    def slots(self, size: Size) -> int:
        """How many of this size have room."""
        if not size.allows(self.node):
            return 0
        found = self.cpus // max(1, size.cpus)
        if 0 < size.gpus <= UNITS:
            return min(found, sum(free // size.gpus for free in self.gpus))
        return min(found, sum(free == UNITS for free in self.gpus) * UNITS // size.gpus) if size.gpus else found

    def take(self, size: Size, protected: bool) -> None:
        self.cpus -= size.cpus
        self.kept_cpus += size.cpus * protected
        each, used = size.gpus, list[int]()
        if 0 < size.gpus <= UNITS:
            used = [min((free, index) for index, free in enumerate(self.gpus) if free >= size.gpus)[1]]
        elif size.gpus:
            each, used = UNITS, [index for index, free in enumerate(self.gpus) if free == UNITS][: size.gpus // UNITS]
        for index in used:
            self.gpus[index] -= each
            self.kept_gpus[index] += each * protected

    def hold(self, size: Size, count: int) -> None:
        self.held_cpus += count * size.cpus
        self.held_gpus += count * size.gpus

    def displaced(self, size: Size, free_gpus: int) -> tuple[int, int]:
        """How many GPUs and CPUs of trials that run there a new trial would take."""
        gpus = max(0, size.gpus + self.held_gpus - free_gpus) if size.gpus else 0
        return gpus, max(0, size.cpus + self.held_cpus - self.cpus)


class Preference:
    """Which nodes an experiment prefers that has these `nodes`, one for each slot, and wants `more` slots."""

    def __init__(self, rule: PlacementRule, nodes: Iterable[str], more: int) -> None:
        self._packs = rule == "pack"
        self._own = Counter(nodes)
        self._more = more

    def rank(self, room: _Room, size: Size) -> tuple[int, ...]:
        """To pack: the nodes that it has, the fullest first, then those with room for most of what it wants."""
        own = self._own[room.node.id]
        return (-own, -min(self._more, room.slots(size))) if self._packs else (own,)


class Placement:
    """The nodes, and what has been placed on them so far. Nothing is taken back.

    `demanded`: how many demands there are of each size. `wants_gpus`: somebody demands GPUs, which trials without them
    leave free where possible.
    """

    def __init__(self, cluster: Cluster, demanded: Counter[Size], wants_gpus: bool) -> None:
        self._wants_gpus = wants_gpus
        choosy = [(size, count) for size, count in demanded.items() if size.is_choosy]
        self._rooms = [
            _room(node, sum(count for size, count in choosy if not size.allows(node))) for node in cluster.nodes
        ]
        self._by_id = {room.node.id: room for room in self._rooms if room.node.id}

    def hold(self, size: Size, nodes: Iterable[str]) -> list[str]:
        """Trials of this size run on these nodes: others avoid their room. Returns the nodes that exist."""
        known = [node for node in nodes if node in self._by_id]
        for node in known:
            self._by_id[node].hold(size, 1)
        return known

    def allows(self, size: Size, node: str) -> bool:
        """Whether such a trial may be on a node, by its id, however large that is."""
        return node in self._by_id and size.allows(self._by_id[node].node)

    def release(self, size: Size, nodes: Iterable[str]) -> None:
        """Trials that run on these nodes will get no slot there."""
        for node in nodes:
            self._by_id[node].hold(size, -1)

    def place(
        self,
        size: Size,
        held: list[str],
        *,
        protected: bool = False,
        spare_gpus: bool = True,
        leave_gpus: bool = False,
        preference: Preference | None = None,
    ) -> str | None:
        """Take a slot; its node, or None if nothing is free.

        Of the nodes that the demand has `held`, the first with room is taken and removed from the list. Otherwise it is
        the node where the fewest running trials have to leave, then the one that the `preference` ranks first, then the
        one that it fills best: first nodes that fewer experiments can use, then, for trials without GPUs, those
        without; these come before any preference if `spare_gpus`. With `leave_gpus`, a trial without GPUs takes no room
        beside GPUs that somebody demands.
        """
        for index, node in enumerate(held):
            room = self._by_id[node]
            if room.fits(size):
                del held[index]
                room.hold(size, -1)
                room.take(size, protected)
                return node
        left = leave_gpus and self._wants_gpus and not size.gpus
        fitting = [room for room in self._rooms if not room.claimed and room.fits(size) and not (left and room.gpus)]
        if not fitting:
            return None
        spares = self._wants_gpus and spare_gpus and not size.gpus

        def rank(room: _Room) -> tuple[object, ...]:
            free_gpus = sum(room.gpus)
            preferred = preference.rank(room, size) if preference else ()
            spared = free_gpus if spares else 0
            return *room.displaced(size, free_gpus), spared, *preferred, -room.excluders, free_gpus, room.cpus

        best = min(fitting, key=rank)
        best.take(size, protected)
        return best.node.id

    def claim(self, size: Size) -> bool:
        """Keep new trials from a node on which such a trial fits as soon as protected slots end. False if none is."""
        able = [room for room in self._rooms if not room.claimed and room.fits(size, without_protected=True)]
        if not able:
            return False
        min(able, key=lambda room: (sum(room.kept_gpus), room.kept_cpus)).claimed = True
        return True


def is_large_enough(nodes: Iterable[Node], size: Size) -> bool:
    """Whether some node, when empty, could hold one such trial."""
    return any(_room(node, 0).fits(size) for node in nodes)


def _room(node: Node, excluders: int) -> _Room:
    gpus = math.floor(node.gpus)
    return _Room(node, excluders, int(node.cpus * UNITS), [UNITS] * gpus, kept_gpus=[0] * gpus)
