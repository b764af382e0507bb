"""The pool and the grants of the database, as an administrator would set them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete

from service.store.database import Database
from service.store.models import StoredGrant, StoredPool


def set_pool(database: Database, *, stop: str = "none", min_run_s: float = 20.0, preempt_grace_s: float = 10.0) -> None:
    """Replace the settings of the pool. The times are short, so that a test takes few passes."""
    with database.write() as session:
        session.merge(StoredPool(name="default", stop=stop, min_run_s=min_run_s, preempt_grace_s=preempt_grace_s))


def set_grant(database: Database, team: str = "default", **changes: Any) -> None:
    """Replace a grant of the pool, which must exist."""
    nothing = dict.fromkeys(("limit", "max_running", "max_queued", "max_priority"))
    with database.write() as session:
        session.merge(StoredGrant(pool="default", team_id=team, **{"weight": 1, "quota": 0, **nothing, **changes}))


def clear(database: Database) -> None:
    """As it was before anybody set anything."""
    with database.write() as session:
        for table in (StoredGrant, StoredPool):
            session.execute(delete(table))
