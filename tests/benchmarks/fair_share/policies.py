"""Policies: the same question, how many slots each experiment has now, to three allocators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from service.domain.cluster import Cluster
from service.scheduling.allocation import allocate
from service.scheduling.borrowing import BorrowingMeter
from service.scheduling.shares import Demand, Grant, Pool
from tests.benchmarks.fair_share import former

MAX_GAP_S = 3600.0  # longer than a round of the simulation


@dataclass(frozen=True)
class Policy:
    """`shares`: the slots of each experiment at a time, in seconds.

    `reclaims`: whether epochs are left and experiments parked for others.
    """

    name: str
    shares: Callable[[Sequence[Demand], Cluster, float], Mapping[str, int]]
    reclaims: bool = False


def fair(grants: Mapping[str, Grant]) -> Policy:
    """Rung's."""
    now_s = 0.0
    meter = BorrowingMeter(MAX_GAP_S, lambda: now_s)

    def shares(demands: Sequence[Demand], cluster: Cluster, at: float) -> Mapping[str, int]:
        nonlocal now_s
        now_s = at
        given = meter.grants(grants, [one.team for one in demands])
        found = allocate(Pool(), given, demands, cluster)
        meter.observe(demands, found, given)
        return {name: share.slots for name, share in found.items()}

    return Policy("fair share", shares, reclaims=True)


def _of_0_1(demands: Sequence[Demand], cluster: Cluster, _: float) -> Mapping[str, int]:
    asked = [
        former.Demand(one.experiment_id, one.cpus, one.gpus, one.most, one.running)
        for one in sorted(demands, key=lambda one: one.submitted_at)
    ]
    return former.allocate(cluster, asked)


def _first_come(demands: Sequence[Demand], cluster: Cluster, _: float) -> Mapping[str, int]:
    """Each takes all that it can use, as a job in a batch queue does, before the next one gets anything."""
    asked = [
        former.Demand(one.experiment_id, one.cpus, one.gpus, one.most, one.running, priority=-place)
        for place, one in enumerate(sorted(demands, key=lambda one: (not one.running, one.submitted_at)))
    ]
    return former.allocate(cluster, asked)


FORMER = Policy("Rung 0.1: equal for experiments", _of_0_1)
FIRST_COME = Policy("first come, first served", _first_come)
