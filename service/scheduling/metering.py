"""Metering: what experiments use, counted by the service in each pass and stored by the hour.

Owns what counts. A slot counts from the pass that gives it until it is taken back, also while its driver starts or its
trial loads data: nobody else can use it. A trial that still runs after its slot was taken back counts, too, and so much
less is counted for those who wait for its end. A driver that reports no trials is therefore counted for its slots all
the same, as far as no trials of others are in their place. It must not know how slots are divided.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.domain.accounting import Month
from service.store.accounting import Usage, UsageOfMonth
from service.store.models import Experiment

NOTHING = {"slot_seconds": 0.0, "gpu_seconds": 0.0, "cpu_seconds": 0.0}


@dataclass(frozen=True)
class Metered:
    """An experiment of a pool with a driver: `slots` that it was given, `trials` that its driver reports as running.

    `cost` of one slot, in any unit that is the same for all; `cpus` and `gpus` of one slot.
    """

    experiment: Experiment
    slots: int
    trials: int
    cost: float
    cpus: float
    gpus: float


def held_slots(metered: Sequence[Metered]) -> list[float]:
    """The slots of each that count. Together, they cost at least what was given."""
    late = sum(max(0, one.trials - one.slots) * one.cost for one in metered)
    unfilled = sum(max(0, one.slots - one.trials) * one.cost for one in metered)
    waiting = min(1.0, late / unfilled) if unfilled else 0.0
    return [one.trials + max(0, one.slots - one.trials) * (1.0 - waiting) for one in metered]


def record(session: Session, metered: Sequence[Metered], seconds: float, now: datetime) -> None:
    """Add so many seconds of what these experiments hold to the hour and the month of `now`."""
    held = [(one, slots) for one, slots in zip(metered, held_slots(metered), strict=True) if slots]
    if not seconds or not held:
        return
    found = [one.experiment for one, _ in held]
    hours, months = _hours(session, found, now), _months(session, {one.team_id for one in found}, now)
    for one, slots in held:
        for row in (hours[one.experiment.id], months[one.experiment.team_id]):
            row.slot_seconds += slots * seconds
            row.gpu_seconds += slots * one.gpus * seconds
            row.cpu_seconds += slots * one.cpus * seconds


def complete_month(session: Session, now: datetime) -> None:
    """Have the sums of the month of `now` hold all of its hours: a replica of a version that knows no sums may have
    held the lease before. Reads all usage of the month."""
    month = Month.of(now)
    query = select(Usage.team_id, *(func.sum(getattr(Usage, name)).label(name) for name in NOTHING))
    found = session.execute(query.where(Usage.hour >= month.begin, Usage.hour < month.end).group_by(Usage.team_id))
    used = {row.team_id: row for row in found}
    for team, row in _months(session, used.keys(), now).items():
        for name in NOTHING:
            setattr(row, name, max(getattr(row, name), getattr(used[team], name)))


def _hours(session: Session, experiments: Sequence[Experiment], now: datetime) -> dict[str, Usage]:
    """The rows of the hour of `now` by experiment; those that do not exist are added."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    query = select(Usage).where(Usage.hour == hour, Usage.experiment_id.in_([one.id for one in experiments]))
    rows = {row.experiment_id: row for row in session.scalars(query)}
    for one in experiments:
        if one.id not in rows:
            rows[one.id] = Usage(
                hour=hour,
                experiment_id=one.id,
                team_id=one.team_id,
                pool=one.pool,
                user_id=one.owner_id,
                **NOTHING,
            )
            session.add(rows[one.id])
    return rows


def _months(session: Session, teams: Set[str], now: datetime) -> dict[str, UsageOfMonth]:
    """The rows of the month of `now` by team; those that do not exist are added."""
    month = Month.of(now).begin
    query = select(UsageOfMonth).where(UsageOfMonth.month == month, UsageOfMonth.team_id.in_(teams))
    rows = {row.team_id: row for row in session.scalars(query)}
    for team in teams - rows.keys():
        rows[team] = UsageOfMonth(team_id=team, month=month, **NOTHING)
        session.add(rows[team])
    return rows
