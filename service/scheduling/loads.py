"""Loads: what each team uses of a pool now. It must not know what a team may use."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.contract.states import DRIVEN, State
from service.domain.cluster import Cluster
from service.scheduling.cost import Costs
from service.scheduling.placement import UNITS, Size
from service.store.models import Experiment


@dataclass
class Load:
    """`used`: what the slots of a team cost, in the unit of quotas. `running` and `queued`: experiments with a driver,
    and those that wait."""

    used: float = 0.0
    running: int = 0
    queued: int = 0


def of_teams(session: Session, pool: str, cluster: Cluster) -> dict[str, Load]:
    """The load of each team that has one; `cluster` is what the pool has of it."""
    costs = Costs(cluster)
    size = (Experiment.cpus_per_trial, Experiment.gpus_per_trial)
    query = select(Experiment.team_id, Experiment.state, *size, func.sum(Experiment.slots), func.count())
    query = query.where(Experiment.state.in_([State.QUEUED, *DRIVEN]), Experiment.pool == pool)
    found: dict[str, Load] = {}
    query = query.group_by(Experiment.team_id, Experiment.state, *size)
    for team, state, cpus, gpus, slots, count in session.execute(query):
        one = found.setdefault(team, Load())
        if state == State.QUEUED:
            one.queued += count
            continue
        one.running += count
        if cpus is not None:  # null: the size was not stored as a number
            default = cluster.default_gpus_per_trial
            one.used += slots * costs.of(Size.of(cpus, default if gpus is None else gpus)) / UNITS
    return found
