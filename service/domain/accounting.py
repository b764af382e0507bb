"""Accounting: what was used in a month, by team, person, experiment or pool.

Owns the sums. Each is of one team, so that none tells anything of another. It must not know HTTP, nor how usage is
measured.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.contract.schemas import Used
from service.contract.usage import UsageEntry
from service.contract.usage_by import UsageBy
from service.store.accounting import Usage
from service.store.accounts import User
from service.store.models import Experiment

HOUR_S = 3600.0


@dataclass(frozen=True)
class Month:
    """A month of the calendar in UTC: from `begin` until before `end`."""

    begin: datetime

    @classmethod
    def of(cls, moment: datetime) -> Month:
        moment = moment.astimezone(UTC)
        return cls(datetime(moment.year, moment.month, 1, tzinfo=UTC))

    @classmethod
    def parse(cls, text: str) -> Month:
        """From what matches `contract.usage.MONTH`."""
        return cls(datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC))

    @property
    def end(self) -> datetime:
        return datetime(self.begin.year + self.begin.month // 12, self.begin.month % 12 + 1, 1, tzinfo=UTC)

    def __str__(self) -> str:
        return f"{self.begin:%Y-%m}"


#: What is summed up in each team. Where there is no person, an empty text sorts and compares as null does not.
KEYS: dict[UsageBy, ColumnElement[str] | InstrumentedAttribute[str]] = {
    UsageBy.TEAM: Usage.team_id,
    UsageBy.PERSON: func.coalesce(Usage.user_id, ""),
    UsageBy.EXPERIMENT: Usage.experiment_id,
    UsageBy.POOL: Usage.pool,
}
Position = tuple[str, str]


def sums(
    session: Session, month: Month, by: UsageBy, teams: Collection[str] | None, after: Position, limit: int
) -> list[tuple[Position, UsageEntry]]:
    """What these teams (None: all) used, in the order of teams and of what it is summed by, from behind a position."""
    key = KEYS[by]
    query = (
        select(
            Usage.team_id,
            key.label("key"),
            func.max(Usage.user_id).label("user_id"),
            func.sum(Usage.slot_seconds).label("slot_seconds"),
            func.sum(Usage.gpu_seconds).label("gpu_seconds"),
            func.sum(Usage.cpu_seconds).label("cpu_seconds"),
        )
        .where(Usage.hour >= month.begin, Usage.hour < month.end)
        .group_by(Usage.team_id, "key")
        .order_by(Usage.team_id, "key")
        .limit(limit)
    )
    if teams is not None:
        query = query.where(Usage.team_id.in_(teams))
    query = query.where(tuple_(Usage.team_id, key) > after)
    rows = session.execute(query).all()
    logins = _logins(session, {row.user_id for row in rows if row.user_id})
    names = _names(session, {row.key for row in rows}) if by is UsageBy.EXPERIMENT else {}
    has_person = by in {UsageBy.PERSON, UsageBy.EXPERIMENT}
    return [
        (
            (row.team_id, row.key),
            UsageEntry(
                team=row.team_id,
                person=logins.get(row.user_id) if has_person else None,
                experiment_id=row.key if by is UsageBy.EXPERIMENT else None,
                name=names.get(row.key),
                pool=row.key if by is UsageBy.POOL else None,
                slot_hours=row.slot_seconds / HOUR_S,
                gpu_hours=row.gpu_seconds / HOUR_S,
                cpu_hours=row.cpu_seconds / HOUR_S,
            ),
        )
        for row in rows
    ]


def used(session: Session, ids: Collection[str]) -> dict[str, Used]:
    """What each of these experiments has used so far."""
    query = (
        select(
            Usage.experiment_id, func.sum(Usage.slot_seconds), func.sum(Usage.gpu_seconds), func.sum(Usage.cpu_seconds)
        )
        .where(Usage.experiment_id.in_(ids))
        .group_by(Usage.experiment_id)
    )
    found = dict.fromkeys(ids, Used(slot_hours=0, gpu_hours=0, cpu_hours=0))
    for experiment_id, slot, gpu, cpu in session.execute(query):
        found[experiment_id] = Used(slot_hours=slot / HOUR_S, gpu_hours=gpu / HOUR_S, cpu_hours=cpu / HOUR_S)
    return found


def _logins(session: Session, ids: Collection[str]) -> dict[str, str]:
    return {row.id: row.login for row in session.execute(select(User.id, User.login).where(User.id.in_(ids)))}


def _names(session: Session, ids: Collection[str]) -> dict[str, str]:
    query = select(Experiment.id, Experiment.name).where(Experiment.id.in_(ids))
    return {row.id: row.name for row in session.execute(query)}
