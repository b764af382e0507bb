"""Allocation: how many trials each experiment may run at once, and why not more. A pure function without a clock.

Slots are given one at a time, each time from the beginning, so what runs has no advantage over what waits:

1. A protected experiment, that is, one that has just started, keeps its first slot.
2. Teams below their quota come next, the one with the smallest part of it first.
3. What is left is lent: to a team that has nothing, then to the one that has the least above its quota, divided by its
   weight. Parts that are no whole number of slots are rounded in favor of the team that has used the least.
4. Inside a team, the highest priority comes first, then the person and then the experiment that has the least, then
   the older one.

An experiment that has a choice of nodes makes room for one that has none (`exchange`).

`cost` says what a slot costs. It must not know the database or Ray.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence

from service.domain.cluster import Cluster
from service.scheduling.cost import Costs
from service.scheduling.exchange import exchange
from service.scheduling.placement import UNITS, Placement, Size, is_large_enough
from service.scheduling.shares import Demand, Grant, Pool, Share, Stop, Why
from service.scheduling.turns import Entry, Team, lend

NO_GRANT = Grant()


def allocate(
    pool: Pool, grants: Mapping[str, Grant], demands: Sequence[Demand], nodes: Cluster, costs: Costs | None = None
) -> dict[str, Share]:
    """The share of each experiment, in any order of `demands`; without a slot it waits, or yields those that it has.

    A team without a grant has one of weight 1 and no quota. An experiment that is the first of those without a slot,
    and for which no node has room only because of protected slots, claims a node: no new trial starts there. `costs`:
    by default those of `nodes`.
    """
    return _Round(pool, grants, demands, nodes, costs or Costs(nodes)).run()


class _Round:
    """One allocation, from empty nodes to shares."""

    def __init__(
        self, pool: Pool, grants: Mapping[str, Grant], demands: Sequence[Demand], nodes: Cluster, costs: Costs
    ) -> None:
        self._pool, self._nodes, self._costs = pool, nodes, costs
        wanting = [demand for demand in demands if demand.most > 0]
        demanded = Counter(map(_size, demands))
        self._placement = Placement(nodes, demanded, any(demand.gpus for demand in wanting))
        self._teams = {name: Team(name, grants.get(name, NO_GRANT)) for name in {one.team for one in demands}}
        for demand in wanting:
            self._teams[demand.team].introduce(demand)
        self._entries = [self._entry(demand) for demand in sorted(demands, key=lambda one: one.experiment_id)]
        self._running = 0
        self._turns = 0
        self._fitting: dict[Size, bool] = {}  # whether some living node, when empty, is large enough
        self._full: set[Size] = set()  # what no longer fits: nothing is released meanwhile
        self._claiming: set[Size] = set()  # for which it was tried to claim a node
        sizes = [entry.size for entry in self._entries if entry.demand.most > 0]
        self._smallest = min((one.cpus for one in sizes), default=0), min((one.gpus for one in sizes), default=0)

    def run(self) -> dict[str, Share]:
        for entry in self._entries:
            if entry.demand.most <= 0:
                self._count_running(entry, entry.demand.running)
        for entry in self._entries:
            if self._fits_when_empty(entry.size) and not self._team(entry).grant.is_spent:
                self._team(entry).wanted += max(0, entry.demand.most) * entry.cost
        protected = [one for one in self._entries if one.demand.protected and one.demand.most > 0]
        for entry in sorted(protected, key=Entry.rank):
            self._protect(entry)
        lend(self._teams.values(), self._costs.capacity)
        for entry in self._entries:
            if self._wants_more(entry):
                self._team(entry).add(entry)
        self._lend()
        return {entry.demand.experiment_id: self._share(entry) for entry in self._entries}

    def _entry(self, demand: Demand) -> Entry:
        size, grant = _size(demand), self._teams[demand.team].grant
        priority = demand.priority if grant.max_priority is None else min(demand.priority, grant.max_priority)
        held = self._placement.hold(size, demand.held)
        strays = len(held) < sum(node != "" for node in demand.held)
        return Entry(demand, size, self._costs.of(size), priority, held, strays)

    def _team(self, entry: Entry) -> Team:
        return self._teams[entry.demand.team]

    def _protect(self, entry: Entry) -> None:
        team = self._team(entry)
        if self._pool.stop is Stop.DRAIN or team.grant.is_spent:
            return
        if self._exceeds_limit(team, entry) or team.runs_most:
            return
        node = self._placement.place(
            entry.size, entry.held, protected=True, spare_gpus=False, preference=entry.preference()
        )
        if node is not None:
            self._take(team, entry, node)

    def _lend(self) -> None:
        """Give the slots that are left, one at a time, until nobody gets any."""
        heap: list[tuple[tuple[object, ...], Team]] = []

        def push(team: Team) -> None:
            if (entry := team.next()) is not None:
                heapq.heappush(heap, (team.rank(entry), team))

        for team in self._teams.values():
            push(team)
        while heap:
            team = heapq.heappop(heap)[1]
            entry = team.next()
            assert entry is not None
            self._turns += 1
            entry.turn = entry.turn or self._turns
            team.end_turn(self._serve(team, entry) and self._wants_more(entry))
            push(team)

    def _wants_more(self, entry: Entry) -> bool:
        """If not, others may have the room of the trials that it has too many."""
        if len(entry.nodes) < entry.demand.most:
            return True
        self._placement.release(entry.size, entry.held)
        return False

    def _serve(self, team: Team, entry: Entry) -> bool:
        """Give the entry one more slot, if it may have one and one is free."""
        entry.why, node = self._forbidden(team, entry), None
        if entry.why is None and (entry.held or entry.size not in self._full):
            spare_gpus = bool(entry.nodes) or not entry.demand.running
            node = self._placement.place(entry.size, entry.held, spare_gpus=spare_gpus, preference=entry.preference())
            if node is None and entry.size not in self._full:
                node = exchange(entry, self._entries, self._placement)
        if node is None:
            if entry.why is None:
                self._full.add(entry.size)
                entry.why = self._claim(entry) if self._fits_when_empty(entry.size) else Why.NODE
            self._placement.release(entry.size, entry.held)
            return False
        self._take(team, entry, node)
        return True

    def _claim(self, entry: Entry) -> Why | None:
        """Only the first of a size may claim a node, for its first slot, and only if smaller ones could fill it."""
        is_larger = entry.size.cpus > self._smallest[0] or entry.size.gpus > self._smallest[1]
        if entry.nodes or not is_larger or entry.size in self._claiming:
            return None
        self._claiming.add(entry.size)
        return Why.DRAINING if self._placement.claim(entry.size) else None

    def _take(self, team: Team, entry: Entry, node: str) -> None:
        self._count_running(entry, not entry.nodes)
        entry.nodes.append(node)
        team.take(entry)

    def _count_running(self, entry: Entry, begins: bool) -> None:
        self._running += begins
        self._team(entry).running += begins

    def _forbidden(self, team: Team, entry: Entry) -> Why | None:
        """The rule that forbids another slot, free or not."""
        if not self._fits_when_empty(entry.size) and not is_large_enough(self._nodes.possible, entry.size):
            return Why.NODE
        if self._pool.stop is Stop.DRAIN or (self._pool.stop is Stop.HOLD and not entry.demand.running):
            return Why.HOLD
        if team.grant.is_spent:
            return Why.BUDGET
        if self._exceeds_limit(team, entry):
            return Why.LIMIT
        if entry.nodes:
            return None
        if team.runs_most:
            return Why.MAX_RUNNING
        if self._pool.max_running is not None and self._running >= self._pool.max_running:
            return Why.DRIVERS
        return None

    def _exceeds_limit(self, team: Team, entry: Entry) -> bool:
        return team.limit is not None and team.spent + entry.cost > team.limit

    def _fits_when_empty(self, size: Size) -> bool:
        if size not in self._fitting:
            self._fitting[size] = is_large_enough(self._nodes.nodes, size)
        return self._fitting[size]

    def _share(self, entry: Entry) -> Share:
        nodes, why = entry.nodes, entry.why
        if (entry.held or entry.strays) and (moved := Counter(nodes) - Counter(entry.demand.held)):
            # Drivers learn numbers, not nodes: first the trials leave, in the next round they get the new slots.
            nodes = list((Counter(nodes) - moved).elements())
            why = Why.MOVING
        if len(entry.nodes) >= entry.demand.most and why is None:
            why = Why.ENOUGH
        team = self._team(entry)
        alone = team.spent == sum(other.spent for other in self._teams.values())
        reason = why or (Why.TEAM if alone else Why.SHARE)
        return Share(
            len(nodes), reason, tuple(nodes), entry.turn, len(nodes) * entry.cost / UNITS, team.level is not None
        )


def _size(demand: Demand) -> Size:
    return Size.of(demand.cpus, demand.gpus, demand.excluded, demand.gpu_types)
