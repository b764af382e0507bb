"""Waiting: the order of a team's experiments in the queue of each pool, and the pace at which they start.

Between teams there is no order: a priority counts inside a team. A slot may be given in another order, because a person
who has little comes first. It must not know HTTP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from service.contract.states import State
from service.domain.experiments import WITHOUT_SPEC
from service.store.models import Experiment

#: Long enough for a night and a day, short enough to follow a change of the cluster.
PACE_OF = timedelta(hours=24)
#: Less says little.
LEAST_PERIOD = timedelta(minutes=1)


def count(session: Session) -> Counter[str]:
    """How many experiments of each team wait."""
    query = select(Experiment.team_id, func.count()).where(Experiment.state == State.QUEUED)
    return Counter(dict(session.execute(query.group_by(Experiment.team_id)).all()))


def in_order(
    session: Session, limit: int, after: tuple[int, str, str], teams: Collection[str] | None
) -> list[tuple[int, Experiment]]:
    """Experiments of these teams (None: of all) with their positions in their team and pool, from 1: those `after` a
    position in a team and pool, the first of each before the second of any."""
    order = (Experiment.priority.desc(), Experiment.created_at, Experiment.id)
    position = func.row_number().over(partition_by=(Experiment.team_id, Experiment.pool), order_by=order).label("place")
    queued = select(Experiment.id, Experiment.team_id, Experiment.pool, position)
    queued = queued.where(Experiment.state == State.QUEUED)
    found = (queued if teams is None else queued.where(Experiment.team_id.in_(teams))).subquery()
    place = (found.c.place, found.c.team_id, found.c.pool)
    query = (
        select(found.c.place, Experiment)
        .join(found, found.c.id == Experiment.id)
        .where(tuple_(*place) > after)
        .order_by(*place)
        .limit(limit)
    )
    return [(number, experiment) for number, experiment in session.execute(query.options(WITHOUT_SPEC))]


@dataclass(frozen=True)
class Pace:
    """How many experiments of a team started for the first time in a period that has just ended."""

    started: int = 0
    period: timedelta = PACE_OF


def pace(session: Session, now: datetime) -> dict[tuple[str, str], Pace]:
    """The pace of each team in each pool. The period is PACE_OF, or that since the first of these was submitted: before
    it, nothing could start."""
    group = Experiment.team_id, Experiment.pool
    query = select(*group, func.count(), func.min(Experiment.created_at))
    query = query.where(Experiment.started_at > now - PACE_OF).group_by(*group)
    return {
        (team, pool): Pace(count, min(PACE_OF, max(LEAST_PERIOD, now - since)))
        for team, pool, count, since in session.execute(query)
    }
