"""Pools: what is shared, as an administrator sets it, and all terms by which it is shared, once per pass.

It must not know how slots are divided, HTTP, or whether the caller may do this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from search_spaces.pool_names import DEFAULT_POOL
from search_spaces.problems import Problem, shorten
from service.contract.errors import NotFoundError
from service.scheduling.shares import Grant, Stop
from service.store.models import StoredGrant, StoredPool

MIN_RUN_S = 600.0  # the start of a driver costs about 20 s of CPU time: at most 3 % of what it may then use
GRACE_S = 600.0  # most epochs end by themselves in that time, and then nothing is lost
DEFAULTS: Mapping[str, Any] = {"stop": Stop.NONE.value, "min_run_s": MIN_RUN_S, "preempt_grace_s": GRACE_S}


@dataclass(frozen=True)
class Terms:
    """How a pool is shared: the settings of the pool, and the grants by team."""

    stop: Stop = Stop.NONE
    min_run_s: float = MIN_RUN_S
    preempt_grace_s: float = GRACE_S
    grants: Mapping[str, Grant] = field(default_factory=dict)


def read(session: Session) -> Terms:
    """The terms of the pool; the defaults where nobody has changed them."""
    pool = find(session, DEFAULT_POOL)
    rows = session.scalars(select(StoredGrant).where(StoredGrant.pool == pool.name))
    return Terms(Stop(pool.stop), pool.min_run_s, pool.preempt_grace_s, {row.team_id: _grant(row) for row in rows})


def find(session: Session, pool: str) -> StoredPool:
    """A pool: that of all nodes is there also where nobody has changed it. Raises NotFoundError."""
    if pool != DEFAULT_POOL:
        shown = shorten(pool)
        raise NotFoundError(f"there is no pool {shown!r}", [Problem("pool", f"must be {DEFAULT_POOL}", shown)])
    return session.get(StoredPool, pool) or StoredPool(name=pool, **DEFAULTS)


def lock(session: Session, pool: str) -> StoredPool:
    """A pool with a row, locked for the transaction. Raises NotFoundError."""
    new = find(session, pool)
    if new not in session:
        with contextlib.suppress(IntegrityError), session.begin_nested():  # somebody else may be faster
            session.add(new)
    return session.get_one(StoredPool, pool, with_for_update=True)


def change(session: Session, row: StoredPool, changes: Mapping[str, Any]) -> None:
    """Change settings of a locked pool; None stands for the default."""
    for name, value in changes.items():
        setattr(row, name, DEFAULTS[name] if value is None else value)


def _grant(row: StoredGrant) -> Grant:
    return Grant(row.weight, row.quota, row.limit, row.max_running, row.max_priority)
