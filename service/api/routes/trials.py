"""Routes of trials: list, show, spec, curves, cancel."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from search_spaces.protocol import TrialState
from service.api import etags, pagination, serializers
from service.api.dependencies import TEXT, ExperimentId, IfMatch, Paging, Service
from service.api.error_handlers import error_responses
from service.contract.errors import (
    BadRequestError,
    ConflictError,
    NotFoundError,
    PreconditionFailedError,
    UnavailableError,
    ValidationFailedError,
)
from service.contract.schemas import Curves, TrialPage, TrialView
from service.domain import actions, experiments, trials
from service.domain.attempts import LARGEST_NUMBER

router = APIRouter(prefix="/experiments/{experiment_id}/trials", tags=["trials"])

TrialNumber = Annotated[int, Path(ge=0, lt=LARGEST_NUMBER, description="counted from 0")]


class Sorting(Paging):
    sort: str = Field(
        "trial",
        max_length=64,
        pattern=TEXT,
        description=f"one of {', '.join(trials.SORTS)}; `-` before it for the largest first. No value comes last.",
        examples=["-validation_accuracy"],
    )
    state: TrialState | None = None


@router.get("", responses=error_responses(NotFoundError, ValidationFailedError))
def list_trials(service: Service, experiment_id: ExperimentId, query: Annotated[Sorting, Query()]) -> TrialPage:
    """The last known line of each trial, sorted by a field or by a metric of its last epoch."""
    after = _place(query) if query.cursor is not None else None
    with service.database.read() as session:
        experiment = experiments.find(session, experiment_id)
        found = trials.page(
            session,
            experiment_id,
            sort=query.sort,
            state=query.state,
            after=after,
            limit=query.limit + 1,
        )
    shown = found[: query.limit]
    return TrialPage(
        items=[serializers.trial(row, experiment.mlflow_experiment_id, service.mlflow) for row, _ in shown],
        next_cursor=(
            pagination.encode([query.sort, trials.to_cursor(shown[-1][1]), shown[-1][0].trial])
            if len(found) > query.limit
            else None
        ),
    )


@router.get("/{trial}", responses=error_responses(NotFoundError))
def show_trial(service: Service, experiment_id: ExperimentId, trial: TrialNumber) -> TrialView:
    """The last known line of one trial."""
    with service.database.read() as session:
        experiment = experiments.find(session, experiment_id)
        row = trials.find(session, experiment_id, trial)
    return serializers.trial(row, experiment.mlflow_experiment_id, service.mlflow)


SPEC_ANSWER = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/TrialSpec"}}}}


@router.get("/{trial}/spec", response_model=None, responses={200: SPEC_ANSWER, **error_responses(NotFoundError)})
def show_spec(service: Service, experiment_id: ExperimentId, trial: TrialNumber) -> dict[str, Any]:
    """The configuration that one trial ran: the experiment's spec with every domain replaced by what was drawn."""
    with service.database.read() as session:
        trials.find(session, experiment_id, trial)
    kept = service.files(experiment_id).trial_spec(trial)
    with service.database.read() as session:
        return trials.bound_spec(session, experiment_id, trial, kept).model_dump(mode="json")


@router.get("/{trial}/curves", responses=error_responses(NotFoundError, UnavailableError))
def show_curves(service: Service, experiment_id: ExperimentId, trial: TrialNumber) -> Curves:
    """Every metric of one trial by epoch, read from MLflow. 503 while MLflow is away."""
    with service.database.read() as session:
        row = trials.find(session, experiment_id, trial)
    if row.mlflow_run_id is None:
        raise NotFoundError(f"trial {trial} of experiment {experiment_id} has no curve yet")
    return Curves(
        trial=trial,
        mlflow_run_id=row.mlflow_run_id,
        metrics=serializers.curves(service.mlflow.curves(row.mlflow_run_id)),
    )


@router.post(
    "/{trial}/cancel",
    status_code=202,
    responses=error_responses(BadRequestError, NotFoundError, ConflictError, PreconditionFailedError),
)
def cancel_trial(
    service: Service, response: Response, experiment_id: ExperimentId, trial: TrialNumber, if_match: IfMatch
) -> TrialView:
    """Ask for the end of one trial; the others go on. Its slot is free within seconds.

    While no driver runs, it is remembered until one does. Asking again changes nothing. A trial that has
    ended answers 409 and says how. The ETag is the experiment's.
    """
    with service.database.write() as session:
        experiment = experiments.find(session, experiment_id, lock=True)
        if_match.check(experiment)
        row = actions.cancel_trial(session, experiment, trial, datetime.now(UTC))
    response.headers["ETag"] = etags.etag(experiment.revision)
    return serializers.trial(row, experiment.mlflow_experiment_id, service.mlflow)


def _place(query: Sorting) -> tuple[Any, int]:
    cursor = str(query.cursor)
    sort, value, trial = pagination.decode(cursor, str, object, int)
    if sort != query.sort or not 0 <= trial < LARGEST_NUMBER:
        pagination.refuse(cursor)
    try:
        return trials.from_cursor(sort, value), trial
    except (ValueError, OverflowError):
        pagination.refuse(cursor)
