"""Routes of experiments: submit, list, show. The routes that change one are in `actions`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from search_spaces.experiment import MAX_NAME_LENGTH
from search_spaces.protocol import API_PREFIX
from service.api import access, headers, pagination, serializers, submission
from service.api.access import ExperimentList, VisibleExperiment
from service.api.callers import CurrentCaller, may
from service.api.dependencies import TEXT, Body, ContentType, CurrentContext, IdempotencyKey
from service.api.error_handlers import error_responses
from service.api.examples import SPEC_BODY
from service.api.pagination import Paging
from service.contract.errors import (
    BadRequestError,
    ConflictError,
    ContentTooLargeError,
    NotFoundError,
    UnsupportedMediaTypeError,
    ValidationFailedError,
)
from service.contract.schemas import ExperimentPage, ExperimentView, ValidationResult
from service.contract.states import State
from service.domain import accounting, experiments
from service.domain.experiments import Selection
from service.identity.permissions import Permission

router = APIRouter(prefix=f"{API_PREFIX}/experiments", tags=["experiments"])


#: Of a submission and a continuation.
TARGET_TEAM = "Short name of the team that the experiment belongs to; by default the only one that you may submit to."


class SubmissionQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    validate_only: bool = Field(False, description="Validate and complete the spec without storing anything.")
    team: str | None = Field(None, max_length=64, pattern=TEXT, description=TARGET_TEAM)


class Filters(Paging):
    state: list[State] = Field([], description="Only experiments in one of these states; may be repeated.")
    project: str | None = Field(
        None, max_length=MAX_NAME_LENGTH, pattern=TEXT, description="Only experiments of this project."
    )
    name: str | None = Field(
        None,
        max_length=MAX_NAME_LENGTH,
        pattern=TEXT,
        description="Only experiments with this text in their name, in any case.",
    )
    team: str | None = Field(None, max_length=64, pattern=TEXT, description="Only experiments of this team.")
    owner: str | None = Field(
        None, max_length=64, pattern=TEXT, description="Only experiments that the person with this login submitted."
    )
    label: str | None = Field(None, max_length=64, pattern=TEXT, description="Only experiments with this label.")
    archived: Literal["false", "true", "all"] = Field(
        "false", description="`false` lists experiments that are not archived, `true` archived ones, `all` both."
    )


@router.post(
    "",
    summary="Submit an experiment",
    dependencies=[may(Permission.EXPERIMENT_SUBMIT)],
    status_code=201,
    response_model=ExperimentView | ValidationResult,
    openapi_extra=SPEC_BODY,
    responses={
        200: {"model": ValidationResult, "description": "With `validate_only`: the spec is valid; nothing was stored."},
        201: {
            "model": ExperimentView,
            **headers.success("The experiment is stored and queued.", headers.LOCATION, headers.ETAG, headers.REPLAYED),
        },
        **error_responses(
            BadRequestError,
            NotFoundError,
            ConflictError,
            ContentTooLargeError,
            UnsupportedMediaTypeError,
            ValidationFailedError,
        ),
    },
)
def submit_experiment(
    context: CurrentContext,
    caller: CurrentCaller,
    response: Response,
    body: Body,
    content_type: ContentType,
    query: Annotated[SubmissionQuery, Query()],
    key: IdempotencyKey = None,
) -> ExperimentView | ValidationResult:
    """Validates a spec, fills in its defaults, and queues it.

    An invalid spec is not stored; `errors` of the response list every broken rule with its field and value. `warnings`
    list valid settings that are probably mistakes. If the same body is sent again under the same
    `Idempotency-Key`, the response is the experiment that it created, in its current state, with the header
    `Idempotent-Replayed: true`.
    """
    request = submission.Request(caller, body, content_type, key, query.team)
    if query.validate_only:
        checked = submission.check(context, request)
        response.status_code = 200
        return ValidationResult(
            spec=checked.spec.model_dump(mode="json"),
            warnings=checked.warnings,
            num_samples=checked.spec.num_samples,
            forecast=checked.forecast,
        )
    submitted = submission.submit(context, request)
    return access.created(context, caller, response, submitted.experiment_id, submitted.replayed)


@router.get(
    "",
    summary="List experiments",
    dependencies=[may(Permission.EXPERIMENT_READ)],
    responses={200: headers.success("One page of experiments."), **error_responses(ValidationFailedError)},
)
def list_experiments(
    context: CurrentContext, visible: ExperimentList, query: Annotated[Filters, Query()]
) -> ExperimentPage:
    """Lists experiments, newest first."""
    with context.database.read() as session:
        selection = Selection(
            states=query.state,
            project=query.project,
            name=query.name,
            label=query.label,
            teams=None if query.team is None else [query.team],
            owner=query.owner,
            archived=None if query.archived == "all" else query.archived == "true",
            before=pagination.decode_experiment(query.cursor),
            limit=query.limit + 1,
        )
        found = visible.newest(session, selection)
        counts = experiments.count_trials(session, [experiment.id for experiment in found])
        used = accounting.used(session, [experiment.id for experiment in found])
    page = found[: query.limit]
    outage = context.cluster_cache.unreachable_reason
    summaries = [serializers.summary(one, counts[one.id], used[one.id], context.mlflow, outage) for one in page]
    return ExperimentPage(
        items=[
            shown.model_copy(update={"source_id": access.visible_source(visible.caller, one)})
            for shown, one in zip(summaries, page, strict=True)
        ],
        next_cursor=pagination.encode_experiment(page[-1]) if len(found) > query.limit else None,
    )


@router.get(
    "/{experiment_id}",
    summary="Get an experiment",
    dependencies=[may(Permission.EXPERIMENT_READ)],
    responses={200: headers.success("The experiment.", headers.ETAG), **error_responses(NotFoundError)},
)
def show_experiment(experiment: VisibleExperiment) -> ExperimentView:
    """Returns everything about one experiment except its trials."""
    return experiment.show()
