"""Routes of trials: list, show, spec, curves, cancel."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from search_spaces.protocol import API_PREFIX, MAX_NUMBER, TrialState
from service.api import etags, headers, pagination, serializers
from service.api.access import EditableExperiment, VisibleExperiment
from service.api.callers import may
from service.api.dependencies import TEXT, TrialNumber
from service.api.error_handlers import error_responses, unavailable
from service.api.pagination import Paging
from service.contract.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    PreconditionFailedError,
    UnavailableError,
    ValidationFailedError,
)
from service.contract.schemas import Curves, TrialPage, TrialView
from service.domain import actions, trials
from service.identity.permissions import Permission

router = APIRouter(prefix=f"{API_PREFIX}/experiments/{{experiment_id}}/trials", tags=["trials"])

SPEC_RESPONSE = {
    **headers.success("The trial's spec."),
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/TrialSpec"}}},
}


class Sorting(Paging):
    sort: str = Field(
        "trial",
        max_length=64,
        pattern=TEXT,
        description=f"Sort key, smallest value first: one of {', '.join(trials.SORT_KEYS)}. With `-` before it, "
        "largest value first. Trials without a value come last.",
        examples=["-validation_accuracy"],
    )
    state: TrialState | None = Field(None, description="Only trials in this state.")
    replicates: bool = Field(
        False,
        description="Lists the runs of the finalists with fresh seeds instead. Number 5000000 + 10 n + s is the one of "
        "trial n with its fresh seed s (from 0).",
    )


@router.get(
    "",
    summary="List the trials of an experiment",
    dependencies=[may(Permission.EXPERIMENT_READ)],
    responses={200: headers.success("One page of trials."), **error_responses(NotFoundError, ValidationFailedError)},
)
def list_trials(visible: VisibleExperiment, query: Annotated[Sorting, Query()]) -> TrialPage:
    """Lists trials as their driver last reported them, sorted by a field or by a metric of their newest epoch."""
    after = _position(query) if query.cursor is not None else None
    with visible.read() as (session, experiment):
        page, has_more = trials.page(
            session,
            experiment,
            sort=query.sort,
            state=query.state,
            replicates=query.replicates,
            after=after,
            limit=query.limit,
        )
    return TrialPage(
        items=[serializers.trial(row, experiment, visible.context.mlflow) for row, _ in page],
        next_cursor=(
            pagination.encode([query.sort, trials.to_cursor(page[-1][1]), page[-1][0].trial]) if has_more else None
        ),
    )


@router.get(
    "/{trial}",
    summary="Get a trial",
    dependencies=[may(Permission.EXPERIMENT_READ)],
    responses={200: headers.success("The trial."), **error_responses(NotFoundError, ValidationFailedError)},
)
def show_trial(visible: VisibleExperiment, trial: TrialNumber) -> TrialView:
    """Returns one trial as its driver last reported it."""
    with visible.read() as (session, experiment):
        row = trials.find(session, experiment, trial)
    return serializers.trial(row, experiment, visible.context.mlflow)


@router.get(
    "/{trial}/spec",
    summary="Get the spec of a trial",
    dependencies=[may(Permission.EXPERIMENT_READ)],
    response_model=None,
    responses={200: SPEC_RESPONSE, **error_responses(NotFoundError, ValidationFailedError)},
)
def show_spec(visible: VisibleExperiment, trial: TrialNumber) -> dict[str, Any]:
    """Returns what one trial trains: the experiment's spec with a value in place of each domain."""
    with visible.read() as (session, experiment):
        row = trials.find(session, experiment, trial)
    stored = visible.context.files(experiment.id).trial_spec(trial)
    return trials.bound_spec(experiment, row, stored).model_dump(mode="json")


@router.get(
    "/{trial}/curves",
    summary="Get the curves of a trial",
    dependencies=[may(Permission.EXPERIMENT_READ)],
    responses={
        200: headers.success("Every metric by epoch."),
        **error_responses(NotFoundError, ValidationFailedError, UnavailableError),
    },
)
def show_curves(visible: VisibleExperiment, trial: TrialNumber) -> Curves:
    """Returns every metric of one trial by epoch, read from MLflow. Answers 503 while MLflow is unavailable."""
    with visible.read() as (session, experiment):
        row = trials.find(session, experiment, trial)
    if row.mlflow_run_id is None:
        raise NotFoundError(f"trial {trial} of experiment {experiment.id} has no curve yet")
    try:
        metrics = visible.context.mlflow.within(experiment.mlflow_workspace).curves(row.mlflow_run_id)
    except UnavailableError as error:
        raise unavailable("MLflow is unavailable", error) from None
    return Curves(trial=trial, mlflow_run_id=row.mlflow_run_id, metrics=metrics)


@router.post(
    "/{trial}/cancel",
    summary="Cancel a trial",
    dependencies=[may(Permission.TRIAL_CANCEL)],
    status_code=202,
    responses={
        202: headers.success("The trial; its cancellation was requested.", headers.ETAG),
        **error_responses(
            BadRequestError, NotFoundError, ConflictError, PreconditionFailedError, ValidationFailedError
        ),
    },
)
def cancel_trial(editable: EditableExperiment, trial: TrialNumber) -> TrialView:
    """Requests the end of one trial; the others continue. Its slot is usually free within seconds.

    While no driver runs, the next one receives the request. Repeating the request changes nothing. Answers 409 if the
    trial has ended, and says how. The ETag and `If-Match` are those of the experiment.
    """
    editable.caller.act.change = {"trial": trial}
    with editable.edit() as (session, experiment):
        row = actions.cancel_trial(session, experiment, trial, datetime.now(UTC))
    editable.response.headers[headers.ETAG] = etags.etag(experiment.revision)
    return serializers.trial(row, experiment, editable.context.mlflow)


def _position(query: Sorting) -> tuple[Any, int]:
    """Sort value and number of the last trial of the page before. Raises ValidationFailedError."""
    cursor = str(query.cursor)
    sort, value, trial = pagination.decode(cursor, str, object, int)
    if sort != query.sort or not 0 <= trial < MAX_NUMBER:
        pagination.refuse(cursor)
    try:
        return trials.from_cursor(sort, value), trial
    except (ValueError, OverflowError):
        pagination.refuse(cursor)
