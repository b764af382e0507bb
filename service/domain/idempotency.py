"""Idempotency: a submission that is sent again under the same key creates no second experiment.

Owns the keys. It must not know HTTP, nor what is submitted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import CursorResult, delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from search_spaces.problems import Problem, shorten
from service.contract.errors import ValidationFailedError
from service.contract.requests import IDEMPOTENCY_KEY
from service.store.database import Database
from service.store.models import Experiment, IdempotencyKey


def digest(media_type: str, body: bytes, source: str = "") -> str:
    """Identifies a submission by its content; `source` is the experiment that it continues from."""
    return hashlib.sha256(b"\0".join([media_type.encode(), *([source.encode()] if source else []), body])).hexdigest()


def find_replayed(session: Session, key: str, body_sha256: str) -> str | None:
    """The id of the experiment that was submitted under this key; None for a new key.

    Raises ValidationFailedError for a key of another submission.
    """
    known = session.get(IdempotencyKey, key)
    if known is None:
        return None
    if known.body_sha256 != body_sha256:
        # Not with its experiment, which may be somebody else's.
        rule = "must be a new key: this one was already used for a different request"
        raise ValidationFailedError(f"{IDEMPOTENCY_KEY}: {rule}", [Problem(IDEMPOTENCY_KEY, rule, shorten(key))])
    return known.experiment_id


def submit_once(
    database: Database, key: str | None, body_sha256: str, create: Callable[[Session], Experiment]
) -> tuple[str, bool]:
    """The id of the experiment that `create` stores under the key, and whether an earlier submission did so.

    Raises ValidationFailedError for a key of another submission. Key and experiment are stored in one transaction. Of
    two equal submissions at the same moment the second waits for the first (on SQLite to begin, on PostgreSQL at the
    unique key, where it fails), and then finds its experiment.
    """
    try:
        return _submit(database, key, body_sha256, create)
    except IntegrityError:
        return _submit(database, key, body_sha256, create)


def delete_before(session: Session, before: datetime) -> int:
    """Delete the keys of submissions before a time, because a client repeats a submission soon. Gives their number."""
    deleted: CursorResult[Any] = session.execute(  # type: ignore[assignment]  # SQLAlchemy says Result
        delete(IdempotencyKey).where(IdempotencyKey.created_at < before)
    )
    return deleted.rowcount


def _submit(
    database: Database, key: str | None, body_sha256: str, create: Callable[[Session], Experiment]
) -> tuple[str, bool]:
    with database.write() as session:
        known = None if key is None else find_replayed(session, key, body_sha256)
        if known is not None:
            return known, True
        experiment = create(session)
        if key is not None:
            now = datetime.now(UTC)
            session.flush()
            session.add(IdempotencyKey(key=key, body_sha256=body_sha256, experiment_id=experiment.id, created_at=now))
        session.flush()
        return experiment.id, False
