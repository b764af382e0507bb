"""Routes of experiments: submit, list, show. What changes one is in `changes`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from search_spaces import validation
from search_spaces.experiment import MAX_NAME_LENGTH
from search_spaces.parsing import JSON_TYPES, YAML_TYPES, read
from search_spaces.validation import validate
from service.api import pagination, serializers
from service.api.dependencies import TEXT, Body, ExperimentId, Key, Paging, Service, shown, stored
from service.api.error_handlers import error_responses
from service.contract.errors import (
    BadRequestError,
    ContentTooLargeError,
    NotFoundError,
    UnsupportedMediaTypeError,
    ValidationFailedError,
)
from service.contract.schemas import ExperimentPage, ExperimentView, ValidationResult
from service.contract.states import State
from service.domain import dataset_checks, experiments, idempotency
from service.scheduling import fitting
from service.store.models import Experiment

router = APIRouter(prefix="/experiments", tags=["experiments"])

SMALLEST = {"name": "first-try"}
SEARCH = """\
name: fashion-optimizers
project: vision
dataset: {name: fashion_mnist, validation_fraction: 0.1}
search_space:
  optimizer:
    choice:
      - {kind: sgd, lr: {loguniform: [0.001, 1.0]}, momentum: 0.9, nesterov: true}
      - {kind: adam, lr: {loguniform: [1.0e-5, 1.0e-2]}}
  normalization: {choice: [batch, layer, group]}
  batch_size: {choice: [64, 128, 256]}
searcher: {kind: tpe, num_samples: 40}
max_epochs: 20
early_stopping: {kind: asha, grace_period: 1, reduction_factor: 3}
"""
SPEC_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "An ExperimentSpec as JSON or YAML. Its JSON Schema is at `/api/v1/schema`.",
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/ExperimentSpec"},
                "examples": {
                    "smallest": {"summary": "the smallest spec: everything else has a default", "value": SMALLEST},
                    "learning rates": {
                        "summary": "24 learning rates of Adam on handwritten digits",
                        "value": {
                            "name": "digits-lr",
                            "search_space": {"optimizer": {"kind": "adam", "lr": {"loguniform": [1e-4, 1e-1]}}},
                            "searcher": {"kind": "random", "num_samples": 24},
                            "max_epochs": 8,
                        },
                    },
                },
            },
            "application/yaml": {
                "schema": {"type": "string"},
                "examples": {"search": {"summary": "two optimizers, three normalizations", "value": SEARCH}},
            },
        },
    }
}


class Submission(BaseModel):
    model_config = ConfigDict(extra="forbid")

    validate_only: bool = Field(False, description="check and complete the spec, and store nothing")


class Filters(Paging):
    state: list[State] = Field([], description="one or several states")
    project: str | None = Field(None, max_length=MAX_NAME_LENGTH, pattern=TEXT)
    name: str | None = Field(
        None, max_length=MAX_NAME_LENGTH, pattern=TEXT, description="any part of the name, in any case"
    )
    label: str | None = Field(None, max_length=64, pattern=TEXT)
    archived: Literal["false", "true", "all"] = Field("false", description="those in use, the archived, or all")


@router.post(
    "",
    status_code=201,
    response_model=ExperimentView | ValidationResult,
    openapi_extra=SPEC_BODY,
    responses={
        200: {
            "model": ValidationResult,
            "description": "With `validate_only`: the completed spec, and nothing was stored",
        },
        201: {"model": ExperimentView, "description": "Stored and queued; `Location` is its address"},
        **error_responses(BadRequestError, ContentTooLargeError, UnsupportedMediaTypeError, ValidationFailedError),
    },
)
def submit_experiment(
    request: Request,
    response: Response,
    service: Service,
    body: Body,
    query: Annotated[Submission, Query()],
    key: Key = None,
) -> ExperimentView | ValidationResult:
    """Check a spec, complete it with its defaults, and queue it.

    An error names every broken rule with its field and value; then nothing is stored. `warnings` tell of
    what is allowed but seldom meant. Sent again under the same `Idempotency-Key`, the answer is the experiment
    as it is now, with the header `Idempotent-Replayed: true`.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in JSON_TYPES | YAML_TYPES:
        raise UnsupportedMediaTypeError(
            f"application/json or application/yaml required, got {media_type[:100] or 'no content-type'}"
        )
    sha256 = idempotency.digest(media_type, body)
    if key is not None and not query.validate_only:
        with service.database.read() as session:  # before the check: what was accepted once is not judged anew
            known = idempotency.find_replayed(session, key, sha256)
        if known is not None:
            return stored(service, response, known, replayed=True)
    document = read(body, media_type)
    spec = fitting.complete(validate(document), service.cluster_cache.cluster)
    dataset_checks.check(spec.dataset, service.settings.data_root)
    warnings = validation.warnings(spec, document)
    if query.validate_only:
        response.status_code = 200
        return ValidationResult(spec=spec.model_dump(mode="json"), warnings=warnings, num_samples=spec.num_samples)
    made, replayed = idempotency.submit_once(
        service.database, key, sha256, lambda session: experiments.submit(session, spec, warnings)
    )
    service.wake.set()
    return stored(service, response, made, replayed)


@router.get("", responses=error_responses(ValidationFailedError))
def list_experiments(service: Service, query: Annotated[Filters, Query()]) -> ExperimentPage:
    """Experiments from the newest on."""
    before = None
    if query.cursor is not None:
        at, last = pagination.decode(query.cursor, str, str)
        try:
            before = (datetime.fromisoformat(at).astimezone(UTC), last.replace("\0", ""))
        except (ValueError, OverflowError):
            pagination.refuse(query.cursor)
    with service.database.read() as session:
        found = experiments.list_newest(
            session,
            states=query.state,
            project=query.project,
            name=query.name,
            label=query.label,
            archived=None if query.archived == "all" else query.archived == "true",
            before=before,
            limit=query.limit + 1,
        )
        counts = experiments.count_trials(session, [experiment.id for experiment in found])
    shown = found[: query.limit]
    return ExperimentPage(
        items=[
            serializers.summary(
                experiment, counts[experiment.id], service.mlflow, service.cluster_cache.unreachable_reason
            )
            for experiment in shown
        ],
        next_cursor=_cursor(shown[-1]) if len(found) > query.limit else None,
    )


@router.get("/{experiment_id}", responses=error_responses(NotFoundError))
def show_experiment(service: Service, response: Response, experiment_id: ExperimentId) -> ExperimentView:
    """Everything about one experiment but its trials. The ETag is its revision, for If-Match."""
    with service.database.read() as session:
        return shown(session, service, response, experiment_id)


def _cursor(last: Experiment) -> str:
    return pagination.encode([last.created_at.isoformat(), last.id])
