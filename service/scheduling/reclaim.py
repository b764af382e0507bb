"""Reclaim: for how long each driver has had slots, more trials than slots, or neither a trial nor a slot.

Owns these times, which decide what is protected, when trials must leave their epoch, and when a driver is parked. They
are counted in passes of this replica: after a change of the replica they begin again, and a clock that is set does not
matter. It must not know what follows.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from service.scheduling.silence import SilenceTimer


@dataclass(frozen=True)
class Holding:
    """What a driver has, as it was read: `slots` of the last pass, `trials` that its last heartbeats say are running.

    `idle_counts`: it searches, so a time without slots and trials counts as idle.
    """

    experiment_id: str
    attempt: int
    slots: int
    trials: int
    idle_counts: bool


@dataclass(frozen=True)
class Since:
    """Seconds; zero for what does not hold."""

    has_slots_s: float = 0.0
    over_s: float = 0.0
    idle_s: float = 0.0


class ReclaimTimer:
    """Call `observe` once per pass."""

    def __init__(self, timer: SilenceTimer) -> None:
        self._timer = timer

    def observe(self, holdings: Iterable[Holding]) -> dict[str, Since]:
        tokens: dict[Hashable, Hashable] = {}
        ids = []
        for one in holdings:
            ids.append(one.experiment_id)
            if one.slots:
                tokens["slots", one.experiment_id] = one.attempt
            if one.trials > one.slots:
                tokens["over", one.experiment_id] = one.attempt
            if one.idle_counts and not one.slots and not one.trials:
                tokens["idle", one.experiment_id] = one.attempt
        seconds = self._timer.observe(tokens)
        return {one: Since(*(seconds.get((what, one), 0.0) for what in ("slots", "over", "idle"))) for one in ids}
