"""Cursors: a place in a list, as an opaque string that can be handed out and taken back."""

from __future__ import annotations

import base64
import json
from typing import Any, NoReturn

from search_spaces.problems import Problem, shorten
from service.contract.errors import ValidationFailedError


def encode(place: list[Any]) -> str:
    text = json.dumps(place, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str, *kinds: type | tuple[type, ...]) -> list[Any]:
    """The place that `encode` was given, its values of these types. Raises ValidationFailedError for anything else."""
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)))
    except (ValueError, RecursionError):
        refuse(cursor)
    if not isinstance(place, list) or len(place) != len(kinds):
        refuse(cursor)
    if not all(isinstance(value, kind) for value, kind in zip(place, kinds, strict=True)):
        refuse(cursor)
    return place


def refuse(cursor: str) -> NoReturn:
    """Raise ValidationFailedError for a cursor that was not handed out here."""
    problem = Problem("cursor", "a next_cursor of the same list and order required", shorten(cursor))
    raise ValidationFailedError("this cursor does not fit this list", [problem])
