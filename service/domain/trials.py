"""Trials: reading the trials of an experiment, sorted by any metric or field.

`heartbeats` writes them. The database sorts; a trial without a value comes last in both directions.
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
from search_spaces.protocol import DIAGNOSTICS, METRICS, parameter_characters
from search_spaces.replicates import FIRST_REPLICATE
from search_spaces.stored import read_spec, read_trial_spec
from search_spaces.upgrade import upgrade_sample
from service.contract.errors import NotFoundError, ValidationFailedError
from service.store.base import UtcDateTime
from service.store.models import Experiment, Trial

FIELDS = ("trial", "state", "epoch", "best_value", "started_at", "ended_at")
VALUES = (*METRICS, *DIAGNOSTICS)
SORT_KEYS = (*FIELDS, *VALUES)
#: A page of trials ends where their hyperparameters have so many characters: some are megabytes in memory.
MAX_PAGE_CHARACTERS = 2**22
YIELD_PER = 20  # rows that are read at a time
LARGEST_FLOAT = sys.float_info.max


def page(
    session: Session,
    experiment: Experiment,
    *,
    sort: str,
    state: str | None = None,
    replicates: bool = False,
    after: tuple[Any, int] | None = None,
    limit: int,
) -> tuple[list[tuple[Trial, Any]], bool]:
    """At most `limit` trials with their sort values, fewer where their hyperparameters are long, and whether more
    follow; with `after` (a sort value and a trial), only those behind it. Of the search, or its `replicates`.

    `sort` is a metric or a field, with a `-` before it for the largest first. Raises ValidationFailedError.
    """
    descending = sort.startswith("-")
    key = _key(sort.removeprefix("-"))
    order = key.desc() if descending else key.asc()
    query = select(Trial, key).where(
        Trial.experiment_id == experiment.id,
        Trial.trial >= FIRST_REPLICATE if replicates else Trial.trial < FIRST_REPLICATE,
    )
    if state is not None:
        query = query.where(Trial.state == state)
    if after is not None:
        query = query.where(_behind(key, descending, *after))
    query = query.order_by(key.is_(None), order, Trial.trial).limit(limit + 1)
    found: list[tuple[Trial, Any]] = []
    left = MAX_PAGE_CHARACTERS
    with session.execute(query.execution_options(yield_per=YIELD_PER)) as rows:
        for trial, value in rows:
            left -= parameter_characters(trial.parameters)
            if len(found) == limit or (found and left < 0):
                return found, True
            found.append((trial, value))
    return found, False


def find(session: Session, experiment: Experiment, number: int) -> Trial:
    """One trial. Raises NotFoundError for one that has not started."""
    trial = session.get(Trial, (experiment.id, number))
    if trial is None:
        problem = Problem("trial", "must be the number of a trial that has started", number)
        raise NotFoundError(f"experiment {experiment.id} has no trial {number}, or it has not started", [problem])
    return trial


def of_winner(session: Session, experiment: Experiment) -> Trial | None:
    """The run whose weights are registered; None while there is no winner."""
    number = (experiment.winner or {}).get("trial")
    return None if number is None else session.get(Trial, (experiment.id, number))


def bound_spec(experiment: Experiment, trial: Trial, stored: str | None) -> TrialSpec:
    """The spec without domains that a trial runs: the one `stored` in its folder, otherwise bound from its sample.

    The seed of a trial that was imported from another experiment follows its number there, which only the folder
    knows. Raises NotFoundError where the sample was never reported, or does not fit the spec.
    """
    with contextlib.suppress(ValueError):  # absent, truncated, or of another version
        return read_trial_spec(stored or "")
    if trial.sample is None:
        raise NotFoundError(
            f"the hyperparameters of trial {trial.trial} of experiment {experiment.id} were never reported"
        )
    try:
        spec = read_spec(experiment.spec).bind(upgrade_sample(trial.sample), trial.trial)
        return spec.model_copy(update={"gpus": experiment.gpus_per_trial}) if experiment.packing else spec
    except ValueError as error:
        raise NotFoundError(
            f"the sample of trial {trial.trial} of experiment {experiment.id} does not fit the spec: {error}"
        ) from None


def to_cursor(value: Any) -> Any:
    """A sort value as JSON can hold it."""
    return value.isoformat() if isinstance(value, datetime) else value


def from_cursor(sort: str, value: Any) -> Any:
    """A sort value that `to_cursor` wrote. Raises ValueError for one that this sort key cannot have."""
    kind = _key(sort.removeprefix("-")).type
    if value is None:
        return None
    if isinstance(kind, UtcDateTime) and isinstance(value, str):
        return datetime.fromisoformat(value).astimezone(UTC)
    if isinstance(kind, String) and isinstance(value, str):
        return value
    if isinstance(kind, Integer | Float) and isinstance(value, int | float) and abs(value) <= LARGEST_FLOAT:
        return float(value)
    raise ValueError(f"{value!r} is not a value of {sort}")


def _key(name: str) -> ColumnElement[Any]:
    if name in FIELDS:
        column: ColumnElement[Any] = getattr(Trial, name)
        return column
    if name in VALUES:
        value: ColumnElement[Any] = Trial.metrics[name].as_float()
        return value
    problem = Problem("sort", unknown(name, SORT_KEYS), name)
    raise ValidationFailedError(f"{problem}", [problem])


def _behind(key: ColumnElement[Any], descending: bool, value: Any, trial: int) -> ColumnElement[bool]:
    if value is None:
        return and_(key.is_(None), Trial.trial > trial)
    further = key < value if descending else key > value
    return or_(further, and_(key == value, Trial.trial > trial), key.is_(None))
