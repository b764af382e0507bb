"""Pools: reads what is shared and by whom, once per pass. It must not know how slots are divided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.domain.queue_limit import DEFAULT_POOL
from service.scheduling.shares import Grant, Stop
from service.store.models import StoredGrant, StoredPool

MIN_RUN_S = 600.0  # the start of a driver costs about 20 s of CPU time: at most 3 % of what it may then use
GRACE_S = 600.0  # most epochs end by themselves in that time, and then nothing is lost


@dataclass(frozen=True)
class Terms:
    """How a pool is shared: the settings of the pool, and the grants by team."""

    stop: Stop = Stop.NONE
    min_run_s: float = MIN_RUN_S
    preempt_grace_s: float = GRACE_S
    grants: Mapping[str, Grant] = field(default_factory=dict)


def read(session: Session) -> Terms:
    """The terms of the pool; the defaults where nobody has changed them."""
    pool = session.get(StoredPool, DEFAULT_POOL)
    if pool is None:
        return Terms()
    rows = session.scalars(select(StoredGrant).where(StoredGrant.pool == pool.name))
    return Terms(Stop(pool.stop), pool.min_run_s, pool.preempt_grace_s, {row.team_id: _grant(row) for row in rows})


def _grant(row: StoredGrant) -> Grant:
    return Grant(row.weight, row.quota, row.limit, row.max_running, row.max_priority)
