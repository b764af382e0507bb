"""Pagination: a position in a list as an opaque cursor, which a client sends back to get the next page."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, Field

from search_spaces.parsing import NOT_STORABLE
from search_spaces.problems import Problem, shorten
from service.api.integers import Integer
from service.contract.errors import ValidationFailedError
from service.store.models import Experiment


class Paging(BaseModel):
    """Query parameters of a list. Unknown parameters are errors, so that a misspelled filter is reported."""

    model_config = ConfigDict(extra="forbid")

    limit: Integer = Field(50, ge=1, le=1000, description="Largest number of items on the page.")
    cursor: str | None = Field(
        None,
        max_length=1000,
        description="The `next_cursor` of the page before.",
        json_schema_extra={"pattern": "^[A-Za-z0-9_-]+$"},  # the message of `refuse` says more than a pattern
    )


def encode(position: list[Any]) -> str:
    text = json.dumps(position, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str, *types: type | tuple[type, ...]) -> list[Any]:
    """The position that `encode` was given, with values of these types, and texts that a database can be asked for.
    Raises ValidationFailedError otherwise."""
    try:
        position = json.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        refuse(cursor)
    if not isinstance(position, list) or len(position) != len(types):
        refuse(cursor)
    if not all(isinstance(value, kind) for value, kind in zip(position, types, strict=True)):
        refuse(cursor)
    if any(isinstance(value, str) and NOT_STORABLE.search(value) for value in position):
        refuse(cursor)
    return position


def encode_experiment(last: Experiment) -> str:
    """The position of an experiment in a list by creation time."""
    return encode([last.created_at.isoformat(), last.id])


def decode_experiment(cursor: str | None) -> tuple[datetime, str] | None:
    """Creation time and id of the last experiment of the page before. Raises ValidationFailedError."""
    if cursor is None:
        return None
    created_at, experiment_id = decode(cursor, str, str)
    try:
        return datetime.fromisoformat(created_at).astimezone(UTC), experiment_id
    except (ValueError, OverflowError):
        refuse(cursor)


def refuse(cursor: str) -> NoReturn:
    """Raise ValidationFailedError for a cursor that this list did not hand out."""
    problem = Problem("cursor", "must be a next_cursor of the same list in the same order", shorten(cursor))
    raise ValidationFailedError(str(problem), [problem])
