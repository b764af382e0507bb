"""Routes that change an experiment: pause, resume, cancel, change, continue, archive, delete."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from search_spaces.protocol import API_PREFIX
from service.api import access, headers, submission
from service.api.access import EditableExperiment
from service.api.callers import may
from service.api.dependencies import TEXT, Body, ContentType, IdempotencyKey
from service.api.error_handlers import error_responses
from service.api.examples import CHANGE_BODY, CONTINUATION_BODY
from service.contract.errors import (
    BadRequestError,
    ConflictError,
    ContentTooLargeError,
    NotFoundError,
    PreconditionFailedError,
    UnsupportedMediaTypeError,
    ValidationFailedError,
)
from service.contract.schemas import ExperimentView
from service.domain import actions, merge_patch
from service.identity.permissions import Permission
from service.store.models import Experiment

router = APIRouter(prefix=f"{API_PREFIX}/experiments/{{experiment_id}}", tags=["experiments"])

REFUSALS = error_responses(
    BadRequestError, NotFoundError, ConflictError, PreconditionFailedError, ValidationFailedError
)
CHANGED = {200: headers.success("The experiment after the change.", headers.ETAG), **REFUSALS}
WITH_BODY = error_responses(ContentTooLargeError, UnsupportedMediaTypeError)


class ContinuationQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    team: str | None = Field(
        None,
        max_length=64,
        pattern=TEXT,
        description="Short name of the team that the new experiment belongs to; by default that of the source, if you "
        "may submit to it, otherwise the only one that you may submit to.",
    )


@router.post(
    "/pause", summary="Pause an experiment", dependencies=[may(Permission.EXPERIMENT_CHANGE)], responses=CHANGED
)
def pause_experiment(experiment: EditableExperiment) -> ExperimentView:
    """Frees all slots and keeps every finished epoch.

    A queued experiment is paused immediately, a running one as soon as its trials have stopped. Repeating the request
    changes nothing. Answers 409 if the experiment has ended or is being canceled.
    """
    return experiment.apply(actions.pause)


@router.post(
    "/resume", summary="Resume an experiment", dependencies=[may(Permission.EXPERIMENT_CHANGE)], responses=CHANGED
)
def resume_experiment(experiment: EditableExperiment) -> ExperimentView:
    """Queues a paused experiment again, in the position that its age gives it. Trials resume from their last epoch.

    Also resumes an experiment in state ERROR, once the cause is repaired: if it failed because its trials did, those
    are tried again. A completed one is resumed if it has trials left or its winner was not evaluated. Answers 409 while
    the experiment is still pausing, and for a canceled one: continue from it instead.
    """
    return experiment.apply(actions.resume)


@router.post(
    "/cancel", summary="Cancel an experiment", dependencies=[may(Permission.EXPERIMENT_CANCEL)], responses=CHANGED
)
def cancel_experiment(experiment: EditableExperiment) -> ExperimentView:
    """Ends an experiment.

    A queued or paused experiment is canceled immediately, a running one as soon as its trials have stopped. Repeating
    the request changes nothing. Answers 409 if the experiment has already ended in another state.
    """
    return experiment.apply(actions.cancel)


@router.patch(
    "",
    summary="Change an experiment's controls",
    dependencies=[may(Permission.EXPERIMENT_CHANGE)],
    responses={**CHANGED, **WITH_BODY},
    openapi_extra=CHANGE_BODY,
)
def change_experiment(experiment: EditableExperiment, body: Body, content_type: ContentType) -> ExperimentView:
    """Changes priority, num_samples, max_concurrent_trials, max_restarts, goal or budget by a merge patch (RFC 7396).

    `null` resets a field to its default, if it has one. A running experiment applies the change with its next
    heartbeat, a queued or paused one when it runs, one in state ERROR when it is resumed. A completed experiment is
    queued again if num_samples, goal or budget changed and work may be left. If no work is left, `warnings` of the
    response say what else must change: after all trials have ended, a higher goal or budget has no effect without a
    larger num_samples. Answers 409 for a canceled experiment: continue from it instead. The spec never changes.
    """
    patch = merge_patch.parse(body, content_type)
    warnings: list[str] = []

    def change(session: Session, row: Experiment, now: datetime) -> None:
        warnings.extend(actions.change(session, row, patch, now))

    view = experiment.apply(change)
    return view.model_copy(update={"warnings": [*view.warnings, *warnings]})


@router.post(
    "/continue",
    summary="Continue an experiment as a new one",
    dependencies=[may(Permission.EXPERIMENT_CONTINUE)],
    status_code=201,
    responses={
        201: headers.success(
            "The new experiment, or the one that an earlier request with the same key created.",
            headers.LOCATION,
            headers.ETAG,
            headers.REPLAYED,
        ),
        **REFUSALS,
        **WITH_BODY,
    },
    openapi_extra=CONTINUATION_BODY,
)
def continue_experiment(
    experiment: EditableExperiment,
    body: Body,
    content_type: ContentType,
    query: Annotated[ContinuationQuery, Query()],
    key: IdempotencyKey = None,
) -> ExperimentView:
    """Queues a new experiment that imports the trials of one that has ended or is paused, and continues the search.

    The body is a merge patch (RFC 7396) of the source's spec, or empty. `dataset`, `search_space`, `max_epochs`,
    `early_stopping`, `seed`, `objective.metric` and `objective.mode` must stay the same, so that trials remain
    comparable. The new searcher must be `random` or `tpe`. `searcher.num_samples` counts new trials. The source does
    not change; `source_id` of the new experiment refers to it. If the same request is sent again under the same
    `Idempotency-Key`, the response is the experiment that it created, in its current state. Who may read the source may
    continue it, in a team to which they may submit. Until the trials are imported, a source in the same team cannot be
    queued again or deleted; one in another team can, and the new experiment then ends with an error.
    """
    caller = experiment.caller
    request = submission.Request(caller, body, content_type, key, query.team)
    submitted = submission.continue_from(experiment, request)
    return access.created(experiment.context, caller, experiment.response, submitted.experiment_id, submitted.replayed)


@router.post(
    "/archive", summary="Archive an experiment", dependencies=[may(Permission.EXPERIMENT_CHANGE)], responses=CHANGED
)
def archive_experiment(experiment: EditableExperiment) -> ExperimentView:
    """Hides an experiment that has ended or is paused from lists that do not ask for archived ones."""
    return experiment.apply(actions.archive)


@router.post(
    "/unarchive", summary="Unarchive an experiment", dependencies=[may(Permission.EXPERIMENT_CHANGE)], responses=CHANGED
)
def unarchive_experiment(experiment: EditableExperiment) -> ExperimentView:
    """Shows an archived experiment in lists again."""
    return experiment.apply(actions.unarchive)


@router.delete(
    "",
    summary="Delete an experiment",
    dependencies=[may(Permission.EXPERIMENT_DELETE)],
    status_code=202,
    responses={202: headers.success("The experiment, which is being deleted.", headers.ETAG), **REFUSALS},
)
def delete_experiment(experiment: EditableExperiment) -> ExperimentView:
    """Removes an experiment that has ended or is paused, with its files, its MLflow runs and its registered models.

    Answers immediately; once everything is removed, the experiment's address answers 404. A deletion cannot be undone:
    archive the experiment to only hide it. Artifacts are removed where the MLflow server itself serves them. MLflow's
    REST interface only marks runs and logged models as deleted; `mlflow gc`, run on the server, removes them from its
    database, and also artifacts that are stored elsewhere.
    """
    return experiment.apply(actions.delete)
