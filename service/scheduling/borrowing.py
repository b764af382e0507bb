"""Borrowing: what each team has had beyond its part lately, which decides how parts are rounded.

A team's part of the cluster is rarely a whole number of slots. Who has had the least beyond its part, by weight, gets
the slots that are left, so that the parts are right in the long run. Only what differs from the part is counted: the
slots that are left are too few for a small team to repay what it borrowed while others wanted less. Counted by the
replica that schedules, in passes: a clock that is set does not matter, and time in which no replica schedules does not
count. It must not know how slots are divided, nor the database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from service.scheduling.shares import Demand, Grant, Share, Why

HALF_LIFE_S = 7 * 86_400.0
#: Between these times the order of the teams stays the same; otherwise the same slot would go back and forth.
PUBLISHED_EVERY_S = 4 * 3600.0
#: Why an experiment has no more slots, whatever other teams have.
OWN_RULES = frozenset({Why.NODE, Why.HOLD, Why.BUDGET, Why.LIMIT, Why.MAX_RUNNING, Why.DRIVERS})


class BorrowingMeter:
    """`grants` are what `allocate` gets; call `observe` with what it gave. `max_gap_s`: a longer time between two
    passes counts as so much. `borrowed` is what has to be stored, and `restore` takes what was; `counted_s` is all the
    time that was counted."""

    def __init__(self, max_gap_s: float, monotonic: Callable[[], float]) -> None:
        self._max_gap_s, self._monotonic = max_gap_s, monotonic
        self._looked_at: float | None = None
        self._age_s = 0.0
        self.counted_s = 0.0
        self.borrowed: dict[str, float] = defaultdict(float)
        self._published: dict[str, float] = {}

    def restore(self, borrowed: Mapping[str, float]) -> None:
        """Continue where another replica, or an earlier process, stopped: it counted the time until then."""
        self._looked_at = None
        self.borrowed = defaultdict(float, borrowed)
        self._age_s, self._published = 0.0, dict(borrowed)

    def grants(self, grants: Mapping[str, Grant], teams: Iterable[str]) -> dict[str, Grant]:
        """The grants of these teams with what they have borrowed."""
        none = Grant()
        return {team: replace(grants.get(team, none), borrowed=self._published.get(team, 0.0)) for team in {*teams}}

    def observe(self, demands: Iterable[Demand], shares: Mapping[str, Share], grants: Mapping[str, Grant]) -> float:
        """Count the time since the last call for what teams have now. Returns the seconds that were counted."""
        now = self._monotonic()
        passed_s = 0.0 if self._looked_at is None else min(now - self._looked_at, self._max_gap_s)
        self._looked_at = now
        self.counted_s += passed_s
        decay = 0.5 ** (passed_s / HALF_LIFE_S)
        for team in self.borrowed:
            self.borrowed[team] *= decay
        for team, amount in _beyond_parts(demands, shares, grants).items():
            self.borrowed[team] += passed_s * amount
        self._age_s += passed_s
        if self._age_s >= PUBLISHED_EVERY_S:
            self._age_s = 0.0
            self._published = dict(self.borrowed)
        return passed_s


def _beyond_parts(
    demands: Iterable[Demand], shares: Mapping[str, Share], grants: Mapping[str, Grant]
) -> dict[str, float]:
    """What each team that wants more than its part has borrowed, less its part by weight of what they all borrowed.
    A team that its own rules keep from its part is left out."""
    has: dict[str, float] = defaultdict(float)
    whys: dict[str, set[Why]] = defaultdict(set)
    for demand in demands:
        share = shares[demand.experiment_id]
        has[demand.team] += share.cost
        if share.is_scarce:
            whys[demand.team].add(share.why)
    counted = [team for team, found in whys.items() if not (lacks := found - {Why.ENOUGH}) or lacks - OWN_RULES]
    borrowed = {team: max(0.0, has[team] - grants[team].quota) for team in counted}
    each = sum(borrowed.values()) / (sum(grants[team].weight for team in borrowed) or 1.0)
    return {team: amount - each * grants[team].weight for team, amount in borrowed.items()}
