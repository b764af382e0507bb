"""Waiting: the order of a team's experiments in the queue, and the pace at which they start.

Between teams there is no order: a priority counts inside a team. A slot may be given in another order, because a person
who has little comes first. It must not know HTTP.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.orm import Session

from service.contract.states import State
from service.domain.experiments import WITHOUT_SPEC
from service.store.models import Experiment

#: Long enough for a night and a day, short enough to follow a change of the cluster.
PACE_OF = timedelta(hours=24)


def count(session: Session) -> Counter[str]:
    """How many experiments of each team wait."""
    query = select(Experiment.team_id, func.count()).where(Experiment.state == State.QUEUED)
    return _by_team(session, query)


def in_order(
    session: Session, limit: int, after: tuple[int, str], teams: Collection[str] | None
) -> list[tuple[int, Experiment]]:
    """Experiments of these teams (None: of all) with their positions in their team, from 1: those `after` a position in
    a team, the first of each team before the second of any."""
    order = (Experiment.priority.desc(), Experiment.created_at, Experiment.id)
    position = func.row_number().over(partition_by=Experiment.team_id, order_by=order).label("place")
    queued = select(Experiment.id, Experiment.team_id, position).where(Experiment.state == State.QUEUED)
    found = (queued if teams is None else queued.where(Experiment.team_id.in_(teams))).subquery()
    place = (found.c.place, found.c.team_id)
    query = (
        select(found.c.place, Experiment)
        .join(found, found.c.id == Experiment.id)
        .where(tuple_(*place) > after)
        .order_by(*place)
        .limit(limit)
    )
    return [(number, experiment) for number, experiment in session.execute(query.options(WITHOUT_SPEC))]


def started(session: Session, now: datetime) -> Counter[str]:
    """How many experiments of each team started for the first time in PACE_OF."""
    query = select(Experiment.team_id, func.count()).where(Experiment.started_at > now - PACE_OF)
    return _by_team(session, query)


def _by_team(session: Session, counts: Select[str, int]) -> Counter[str]:
    return Counter(dict(session.execute(counts.group_by(Experiment.team_id)).all()))
