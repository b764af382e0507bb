"""The pool and the grants of the database, as an administrator would set them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete

from service.store.database import Database
from service.store.models import StoredGrant, StoredPool


def set_pool(database: Database, **changes: Any) -> None:
    """Replace the settings of a pool. The times are short, so that a test takes few passes."""
    usual = {"name": "default", "labels": {}, "stop": "none", "min_run_s": 20.0, "preempt_grace_s": 10.0}
    with database.write() as session:
        session.merge(StoredPool(**{**usual, **changes}))


def set_grant(database: Database, team: str = "default", *, pool: str = "default", **changes: Any) -> None:
    """Replace a grant of a pool, which must exist."""
    nothing = dict.fromkeys(("limit", "max_running", "max_queued", "max_priority"))
    with database.write() as session:
        session.merge(StoredGrant(pool=pool, team_id=team, **{"weight": 1, "quota": 0, **nothing, **changes}))


def clear(database: Database) -> None:
    """As it was before anybody set anything."""
    with database.write() as session:
        for table in (StoredGrant, StoredPool):
            session.execute(delete(table))
