"""Grants: what each team may use of a pool, as an administrator sets it.

A team without a row has the defaults. Owns the rules of the values. It must not know how slots are divided, HTTP, or
whether the caller may do this.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from search_spaces.pool_names import DEFAULT_POOL
from search_spaces.problems import Problem, SpecError
from service.contract.errors import ConflictError
from service.scheduling import pools
from service.store.accounts import Team
from service.store.models import MAX_AMOUNT, Experiment, StoredGrant

#: The least and the greatest value of each number. A weight of 0 would let a team wait for ever.
RANGES: Mapping[str, tuple[float, float]] = {
    "weight": (1, MAX_AMOUNT),
    "quota": (0, MAX_AMOUNT),
    "limit": (0, MAX_AMOUNT),
    "max_running": (0, MAX_AMOUNT),
    "max_queued": (0, MAX_AMOUNT),
    "max_priority": (-100, 100),
}
Number = float | int | None


@dataclass(frozen=True)
class Terms:
    """The values of a grant; by default those of a team without a row. None is no limit."""

    weight: float = 1
    quota: float = 0
    limit: float | None = None
    max_running: int | None = None
    max_queued: int | None = None
    max_priority: int | None = None


NAMES = tuple(field.name for field in fields(Terms))


def of_teams(session: Session, pool: str, teams: Collection[str] | None) -> dict[str, Terms]:
    """The terms of these teams (None: of all) that may use the pool, by their short names, without archived teams."""
    rows = (StoredGrant.team_id == Team.id) & (StoredGrant.pool == pool)
    query = select(Team.id, StoredGrant).join(StoredGrant, rows, isouter=pool == DEFAULT_POOL)
    query = query.where(Team.archived_at.is_(None))
    query = query if teams is None else query.where(Team.id.in_(teams))
    return {team: _terms(row) for team, row in session.execute(query.order_by(Team.id))}


def of_team(session: Session, pool: str, team: str) -> Terms | None:
    """The terms of one team; None if it may not use the pool."""
    row = session.get(StoredGrant, (pool, team))
    return None if row is None and pool != DEFAULT_POOL else _terms(row)


def change(session: Session, pool: str, team: str, changes: Mapping[str, Number]) -> None:
    """Change values of a team's grant; None stands for the default. The pool must exist, and the row of the team be
    locked. Raises SpecError with every value that breaks a rule."""
    row = session.get(StoredGrant, (pool, team))
    default = asdict(Terms())
    given = {name: default[name] if value is None else value for name, value in changes.items()}
    values = {**asdict(_terms(row)), **given}
    if problems := [*_out_of_range(given), *_contradictions(values)]:
        raise SpecError(problems)
    if row is None:
        pools.lock(session, pool)
        session.add(StoredGrant(pool=pool, team_id=team, **values))
    else:
        for name, value in given.items():
            setattr(row, name, value)


def remove(session: Session, pool: str, team: str) -> None:
    """Give a team the defaults again, or in another pool than the default one no right to use it. Raises ConflictError
    while an experiment of the team that has not ended is in that pool."""
    if pool != DEFAULT_POOL:
        left = pools.find_left(session, pool, Experiment.team_id == team)
        if left is not None:
            raise ConflictError(
                f"the team {team!r} has experiments in the pool {pool!r} that have not ended, such as {left}: wait for "
                "them, cancel them, or set the limit 0"
            )
    if (row := session.get(StoredGrant, (pool, team))) is not None:
        session.delete(row)


def total_quota(session: Session, pool: str) -> float:
    """The sum of the quotas of all teams that are not archived."""
    query = select(func.sum(StoredGrant.quota)).join(Team, Team.id == StoredGrant.team_id)
    return session.scalar(query.where(StoredGrant.pool == pool, Team.archived_at.is_(None))) or 0.0


def _terms(row: StoredGrant | None) -> Terms:
    return Terms() if row is None else Terms(**{name: getattr(row, name) for name in NAMES})


def _out_of_range(values: Mapping[str, Number]) -> list[Problem]:
    found = []
    for name, value in values.items():
        least, greatest = RANGES[name]
        if value is not None and not least <= value <= greatest:
            rule = f"must be at least {least}" if value < least else f"must be at most {greatest}"
            found.append(Problem(name, rule, _plain(value)))
    return found


def _contradictions(values: Mapping[str, Number]) -> list[Problem]:
    quota, limit = values["quota"], values["limit"]
    if quota is not None and limit is not None and quota > limit:
        return [Problem("quota", f"must be at most the limit, {limit:g}", _plain(quota))]
    return []


def _plain(value: float) -> float | int:
    """As people write it: 2, not 2.0."""
    return int(value) if value == int(value) else value
