"""Turns: whose turn it is to get a slot, among teams and inside a team.

Owns the order: a team below its quota, then the one that borrows the least; in it the highest priority, the person and
the experiment that have the least, the older one. It must not know nodes, nor whether a slot is free.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

from service.scheduling.placement import UNITS, Preference, Size
from service.scheduling.shares import Demand, Grant, Why


@dataclass
class Entry:
    """A demand and what it got. `held` shrinks to the nodes that it has to leave; `strays`: it has to leave others."""

    demand: Demand
    size: Size
    cost: int
    priority: int
    held: list[str]
    strays: bool = False
    nodes: list[str] = field(default_factory=list)
    why: Why | None = None
    turn: int = 0

    def spent(self) -> int:
        return len(self.nodes) * self.cost

    def rank(self) -> tuple[int, float, str]:
        return self.spent(), self.demand.submitted_at, self.demand.experiment_id

    def preference(self) -> Preference | None:
        """Which nodes it prefers for its next slots; None if it does not matter."""
        rule = self.demand.placement
        return Preference(rule, self.nodes, self.demand.most - len(self.nodes)) if rule else None


class _Person:
    """What one person's experiments of one priority want, the one that has the least first."""

    def __init__(self, spent: Counter[str], name: str, oldest: float, entries: list[Entry]) -> None:
        self._spent, self._name, self._oldest = spent, name, oldest
        self._heap = [(entry.rank(), entry) for entry in entries]
        heapq.heapify(self._heap)

    def __bool__(self) -> bool:
        return bool(self._heap)

    def rank(self) -> tuple[object, ...]:
        return self._spent[self._name], self._oldest, self._name

    def head(self) -> Entry:
        return self._heap[0][1]

    def end_turn(self, wants_more: bool) -> None:
        """The head has had its turn."""
        entry = heapq.heappop(self._heap)[1]
        if wants_more:
            heapq.heappush(self._heap, (entry.rank(), entry))


class Team:
    """What a team has, and the order in which its experiments want more."""

    def __init__(self, name: str, grant: Grant) -> None:
        self.name = name
        self.grant = grant
        self.quota = Fraction(round(grant.quota * UNITS))
        self.limit = None if grant.limit is None else round(grant.limit * UNITS)
        self.wanted = 0  # the cost of all slots that it can use
        self.level: Fraction | None = None  # what is lent to it, divided by its weight; None: as much as it wants
        self.spent = 0
        self.running = 0
        self.by_person: Counter[str] = Counter()
        self._oldest_of: dict[str, float] = {}
        self._oldest = math.inf
        self._levels: dict[int, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
        self._heap: list[tuple[tuple[object, ...], _Person]] = []

    @property
    def runs_most(self) -> bool:
        """Whether another experiment of it may not run beside those that do."""
        return self.grant.max_running is not None and self.running >= self.grant.max_running

    def introduce(self, demand: Demand) -> None:
        """Ties are decided by all demands, whatever they have: who makes many small ones gains nothing."""
        oldest = self._oldest_of.get(demand.person, math.inf)
        self._oldest_of[demand.person] = min(oldest, demand.submitted_at)
        self._oldest = min(self._oldest, demand.submitted_at)

    def add(self, entry: Entry) -> None:
        self._levels[entry.priority][entry.demand.person].append(entry)

    def next(self) -> Entry | None:
        """Whose turn it is; None when nobody wants more."""
        while not self._heap and self._levels:
            level = self._levels.pop(max(self._levels))
            people = [_Person(self.by_person, name, self._oldest_of[name], entries) for name, entries in level.items()]
            self._heap = [(person.rank(), person) for person in people]
            heapq.heapify(self._heap)
        return self._heap[0][1].head() if self._heap else None

    def end_turn(self, wants_more: bool) -> None:
        """The one whose turn it was has got a slot, or gets none."""
        person = heapq.heappop(self._heap)[1]
        person.end_turn(wants_more)
        if person:
            heapq.heappush(self._heap, (person.rank(), person))

    def rank(self, entry: Entry) -> tuple[object, ...]:
        """When the turn of this entry, its next one, is among those of other teams.

        Teams that stay within their quota come first, then those that have nothing, however large a slot of them is,
        then those that stay within their part of what is lent, the one that borrows the least for its weight first. The
        slots that are left, because a part is rarely a whole number of slots, go to who has borrowed the least
        lately.
        """
        beyond = self.spent + entry.cost - self.quota
        if beyond <= 0:
            return 0, Fraction(self.spent) / self.quota, self._oldest, self.name
        borrows, borrowed = beyond / Fraction(self.grant.weight), self.grant.borrowed / self.grant.weight
        if not self.spent:
            return 1, Fraction(0), borrowed, self._oldest, self.name
        over = Fraction(0) if self.level is None else beyond - self.level * Fraction(self.grant.weight)
        if over <= 0:
            return 1, borrows, borrowed, self._oldest, self.name
        return 1 + math.ceil(over / entry.cost), borrowed, borrows, self._oldest, self.name

    def take(self, entry: Entry) -> None:
        self.spent += entry.cost
        self.by_person[entry.demand.person] += entry.cost


def lend(teams: Iterable[Team], capacity: int) -> None:
    """Divide what is left of the capacity after the quotas, by weights, among those that want more."""
    hungry, weights, left = list[tuple[Fraction, Team]](), Fraction(0), Fraction(capacity)
    for team in teams:
        wanted = Fraction(team.wanted if team.limit is None else min(team.wanted, team.limit))
        more, weight = max(Fraction(0), wanted - team.quota), Fraction(team.grant.weight)
        left -= min(team.quota, wanted)
        weights += weight
        hungry.append((more / weight, team))
    hungry.sort(key=lambda one: one[0])
    for full_at, team in hungry:
        level = max(Fraction(0), left) / weights
        if full_at > level:
            team.level = level
            continue
        left -= full_at * Fraction(team.grant.weight)
        weights -= Fraction(team.grant.weight)
