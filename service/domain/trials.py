"""Trials: reading the last known lines of an experiment's trials, sorted by any metric or field.

Writing them is for `attempts`. Sorting runs in the database; what has no value comes last, both ways.
"""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Float, Integer, String, and_, or_, select
from sqlalchemy.orm import Session

from search_spaces.experiment import TrialSpec
from search_spaces.problems import Problem, unknown
from search_spaces.protocol import DIAGNOSTICS, METRICS
from search_spaces.stored import read_spec, read_trial_spec
from search_spaces.upgrade import upgrade_sample
from service.contract.errors import NotFoundError, ValidationFailedError
from service.domain import experiments
from service.store.models import Trial, UtcDateTime

FIELDS = ("trial", "state", "epoch", "best_value", "started_at", "ended_at")
VALUES = (*METRICS, *DIAGNOSTICS)
SORTS = (*FIELDS, *VALUES)
LARGEST_FLOAT = sys.float_info.max


def page(
    session: Session,
    experiment_id: str,
    *,
    sort: str,
    state: str | None = None,
    after: tuple[Any, int] | None = None,
    limit: int,
) -> list[tuple[Trial, Any]]:
    """Trials and their sort values, those behind `after` (a sort value and a trial) where given.

    `sort` is a metric or a field, with a `-` before it for the largest first. Raises NotFoundError,
    ValidationFailedError.
    """
    experiments.find(session, experiment_id)
    descending = sort.startswith("-")
    key = _key(sort.removeprefix("-"))
    order = key.desc() if descending else key.asc()
    query = select(Trial, key).where(Trial.experiment_id == experiment_id)
    if state is not None:
        query = query.where(Trial.state == state)
    if after is not None:
        query = query.where(_behind(key, descending, *after))
    rows = session.execute(query.order_by(key.is_(None), order, Trial.trial).limit(limit))
    return [(trial, value) for trial, value in rows]


def find(session: Session, experiment_id: str, trial: int) -> Trial:
    """Raises NotFoundError for an unknown experiment and for a trial that has not begun."""
    experiments.find(session, experiment_id)
    found = session.get(Trial, (experiment_id, trial))
    if found is None:
        raise NotFoundError(f"experiment {experiment_id} has no trial {trial}, or it has not begun")
    return found


def bound_spec(session: Session, experiment_id: str, trial: int, kept: str | None) -> TrialSpec:
    """The spec without domains that a trial ran: what its folder has `kept` of it, else as it was drawn.

    The seed of a trial that was taken over from another experiment is that of its number there, which the folder
    alone knows. Raises NotFoundError where the draws were never told, or fit no more.
    """
    stored = experiments.find(session, experiment_id).spec
    sample = find(session, experiment_id, trial).sample
    with contextlib.suppress(ValueError):  # absent, cut short, or of another version
        return read_trial_spec(kept or "")
    if sample is None:
        raise NotFoundError(f"what was drawn for trial {trial} of experiment {experiment_id} is not recorded")
    try:
        return read_spec(stored).bind(upgrade_sample(sample), trial)
    except ValueError as error:
        raise NotFoundError(
            f"trial {trial} of experiment {experiment_id} cannot be bound to its spec: {error}"
        ) from None


def to_cursor(value: Any) -> Any:
    """A sort value as JSON keeps it."""
    return value.isoformat() if isinstance(value, datetime) else value


def from_cursor(sort: str, value: Any) -> Any:
    """A sort value that `to_cursor` wrote. Raises ValueError for one that this order cannot have."""
    kind = _key(sort.removeprefix("-")).type
    if value is None:
        return None
    if isinstance(kind, UtcDateTime) and isinstance(value, str):
        return datetime.fromisoformat(value).astimezone(UTC)
    if isinstance(kind, String) and isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(kind, Integer | Float) and isinstance(value, int | float) and abs(value) <= LARGEST_FLOAT:
        return float(value)
    raise ValueError(f"{value!r} is no value of {sort}")


def _key(name: str) -> ColumnElement[Any]:
    if name in FIELDS:
        column: ColumnElement[Any] = getattr(Trial, name)
        return column
    if name in VALUES:
        value: ColumnElement[Any] = Trial.metrics[name].as_float()
        return value
    raise ValidationFailedError("trials cannot be sorted by this", [Problem("sort", unknown(name, SORTS), name)])


def _behind(key: ColumnElement[Any], descending: bool, value: Any, trial: int) -> ColumnElement[bool]:
    if value is None:
        return and_(key.is_(None), Trial.trial > trial)
    further = key < value if descending else key > value
    return or_(further, and_(key == value, Trial.trial > trial), key.is_(None))
