"""Pool rights: which pools a team may use: the default one, and those in which it has a grant.

It must not know how slots are shared.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from search_spaces.pool_names import DEFAULT_POOL
from search_spaces.problems import Problem, SpecError
from service.store.models import StoredGrant, StoredPool


def check(session: Session, team: str, pool: str, *, lock: bool = False) -> None:
    """Raises SpecError for a pool that is not there, or that the team may not use. With `lock`, it stays what it is
    until the transaction ends."""
    if pool == DEFAULT_POOL:
        return
    query = select(StoredGrant).join(StoredPool, StoredPool.name == StoredGrant.pool)
    query = query.where(StoredGrant.team_id == team, StoredGrant.pool == pool)
    if session.scalar(query.with_for_update(read=True) if lock else query) is None:
        own = select(StoredGrant.pool).where(StoredGrant.team_id == team, StoredGrant.pool != DEFAULT_POOL)
        allowed = ", ".join([DEFAULT_POOL, *session.scalars(own.order_by(StoredGrant.pool))])
        rule = f"must be a pool in which the team {team} has a grant: {allowed}; an administrator gives grants"
        raise SpecError([Problem("resources.pool", rule, pool)])
