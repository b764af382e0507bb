"""Idempotency: a submission that is sent again under the same key creates no second experiment.

Owns the keys. It must not know HTTP, nor what is submitted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import CursorResult, delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from search_spaces.problems import Problem, shorten
from search_spaces.protocol import DEFAULT_TEAM
from service.contract.errors import ValidationFailedError
from service.contract.requests import IDEMPOTENCY_KEY
from service.store.database import Database
from service.store.models import Experiment, IdempotencyKey


@dataclass(frozen=True)
class Submission:
    """A submission that may be repeated: the key of its principal (None: it has none), and what identifies it."""

    principal_id: str
    key: str | None
    sha256: str


def digest(media_type: str, body: bytes, source: str = "", team: str = DEFAULT_TEAM) -> str:
    """Identifies a submission by its content; `source` is the experiment that it continues from.

    The default team is left out: keys that were stored before there were teams stay valid.
    """
    where = [source.encode()] if source else []
    where += [b"team", team.encode()] if team != DEFAULT_TEAM else []
    return hashlib.sha256(b"\0".join([media_type.encode(), *where, body])).hexdigest()


def find_replayed(session: Session, submission: Submission) -> str | None:
    """The id of the experiment that the principal submitted under this key; None for a new key, or without one.

    Raises ValidationFailedError for a key of another submission.
    """
    key = submission.key
    if key is None:
        return None
    known = session.get(IdempotencyKey, (submission.principal_id, key))
    if known is None:
        return None
    if known.body_sha256 != submission.sha256:
        # Not with its experiment: without accounts, it may be somebody else's.
        rule = "must be a new key: this one was already used for a different request"
        raise ValidationFailedError(f"{IDEMPOTENCY_KEY}: {rule}", [Problem(IDEMPOTENCY_KEY, rule, shorten(key))])
    return known.experiment_id


def submit_once(
    database: Database,
    submission: Submission,
    begin: Callable[[Session], None],
    create: Callable[[Session], Experiment],
) -> tuple[str, bool]:
    """The id of the experiment that `create` stores under the key, and whether an earlier submission did so. `begin` is
    called first in the transaction.

    Raises ValidationFailedError for a key of another submission. Key and experiment are stored in one transaction. Of
    two equal submissions at the same moment the second waits for the first (on SQLite to begin, on PostgreSQL at the
    unique key, where it fails), and then finds its experiment.
    """
    try:
        return _submit(database, submission, begin, create)
    except IntegrityError:
        return _submit(database, submission, begin, create)


def delete_before(session: Session, before: datetime) -> int:
    """Delete the keys of submissions before a time, because a client repeats a submission soon. Gives their number."""
    deleted: CursorResult[Any] = session.execute(  # type: ignore[assignment]  # SQLAlchemy says Result
        delete(IdempotencyKey).where(IdempotencyKey.created_at < before)
    )
    return deleted.rowcount


def _submit(
    database: Database,
    submission: Submission,
    begin: Callable[[Session], None],
    create: Callable[[Session], Experiment],
) -> tuple[str, bool]:
    with database.write() as session:
        begin(session)
        known = find_replayed(session, submission)
        if known is not None:
            return known, True
        experiment = create(session)
        if submission.key is not None:
            session.flush()
            session.add(
                IdempotencyKey(
                    principal_id=submission.principal_id,
                    key=submission.key,
                    body_sha256=submission.sha256,
                    experiment_id=experiment.id,
                    created_at=datetime.now(UTC),
                )
            )
        session.flush()
        return experiment.id, False
