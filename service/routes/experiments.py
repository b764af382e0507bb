"""Routes of experiments: submit, list, show, cancel."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from search_spaces.document import JSON_TYPES, YAML_TYPES, read
from search_spaces.problems import validate
from service import cursors, data_sets, experiments, views
from service.errors import BadRequest, Conflict, Invalid, NotFound, TooLarge, WrongMediaType
from service.responses import problems
from service.routes.parts import TEXT, Body, Paging, Service
from service.schemas import ExperimentPage, ExperimentView, Validated
from service.states import State
from service.store.models import Attempt, Experiment

router = APIRouter(prefix="/experiments", tags=["experiments"])

ExperimentId = Annotated[str, Path(description="as in the Location of the answer to its POST", examples=["k3v9q2mz"])]

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
asha: {max_t: 20, grace_period: 1, reduction_factor: 3}
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
                            "asha": {"max_t": 8},
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
    project: str | None = Field(None, max_length=128, pattern=TEXT)
    name: str | None = Field(None, max_length=128, pattern=TEXT, description="any part of the name, in any case")
    label: str | None = Field(None, max_length=64, pattern=TEXT)


@router.post(
    "",
    status_code=201,
    response_model=ExperimentView | Validated,
    openapi_extra=SPEC_BODY,
    responses={
        200: {"model": Validated, "description": "With `validate_only`: the completed spec, and nothing was stored"},
        201: {"model": ExperimentView, "description": "Stored and queued; `Location` is its address"},
        **problems(BadRequest, TooLarge, WrongMediaType, Invalid),
    },
)
def submit_experiment(
    request: Request, response: Response, service: Service, body: Body, query: Annotated[Submission, Query()]
) -> ExperimentView | Validated:
    """Check a spec, complete it with its defaults, and queue it.

    An error names every broken rule with its field and value; then nothing is stored. `warnings` tell of
    what is allowed but seldom meant.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in JSON_TYPES | YAML_TYPES:
        raise WrongMediaType(
            f"application/json or application/yaml required, got {media_type[:100] or 'no content-type'}"
        )
    spec = experiments.complete(validate(read(body, media_type)), service.watch.cluster)
    data_sets.check(spec.dataset, service.settings.data_root)
    warnings, num_samples = spec.warnings(), spec.num_samples
    if query.validate_only:
        response.status_code = 200
        return Validated(spec=spec.model_dump(mode="json"), warnings=warnings, num_samples=num_samples)
    with service.database.write() as session:
        experiment = experiments.submit(session, spec, warnings, num_samples)
    service.wake.set()
    response.headers["Location"] = f"/api/v1/experiments/{experiment.id}"
    return views.full(experiment, {}, [], service.results)


@router.get("", responses=problems(Invalid))
def list_experiments(service: Service, query: Annotated[Filters, Query()]) -> ExperimentPage:
    """Experiments from the newest on."""
    before = None
    if query.cursor is not None:
        at, last = cursors.decode(query.cursor, str, str)
        try:
            before = (datetime.fromisoformat(at).astimezone(UTC), last.replace("\0", ""))
        except (ValueError, OverflowError):
            cursors.refuse(query.cursor)
    with service.database.read() as session:
        found = experiments.newest(
            session,
            states=query.state,
            project=query.project,
            name=query.name,
            label=query.label,
            before=before,
            limit=query.limit + 1,
        )
        counts = experiments.count_trials(session, [experiment.id for experiment in found])
    shown = found[: query.limit]
    return ExperimentPage(
        items=[views.summary(experiment, counts[experiment.id], service.results) for experiment in shown],
        next_cursor=_cursor(shown[-1]) if len(found) > query.limit else None,
    )


@router.get("/{experiment_id}", responses=problems(NotFound))
def show_experiment(service: Service, experiment_id: ExperimentId) -> ExperimentView:
    """Everything about one experiment but its trials."""
    return _view(service, experiment_id)


@router.post("/{experiment_id}/cancel", responses=problems(NotFound, Conflict))
def cancel_experiment(service: Service, experiment_id: ExperimentId) -> ExperimentView:
    """End an experiment: at once while it waits, else as soon as its trials stop.

    Asking again changes nothing. An experiment that has ended otherwise answers 409 and says how.
    """
    with service.database.write() as session:
        experiments.cancel(session, experiment_id, datetime.now(UTC))
    service.wake.set()
    return _view(service, experiment_id)


def _view(service: Service, experiment_id: str) -> ExperimentView:
    with service.database.read() as session:
        experiment = experiments.find(session, experiment_id)
        counts = experiments.count_trials(session, [experiment_id])
        drivers = select(Attempt).where(Attempt.experiment_id == experiment_id).order_by(Attempt.number)
        return views.full(experiment, counts[experiment_id], list(session.scalars(drivers)), service.results)


def _cursor(last: Experiment) -> str:
    return cursors.encode([last.created_at.isoformat(), last.id])
