"""Routes of an experiment that exists: pause, resume, cancel, change, continue, archive, delete."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from sqlalchemy.orm import Session

from search_spaces import validation
from service.api.dependencies import Body, ExperimentId, IfMatch, Key, Service, shown, stored
from service.api.error_handlers import error_responses
from service.api.etags import Precondition
from service.context import AppContext
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
from service.domain import actions, continuation, dataset_checks, experiments, idempotency, merge_patch
from service.scheduling import fitting
from service.store.models import Experiment

router = APIRouter(prefix="/experiments/{experiment_id}", tags=["experiments"])

REFUSALS = error_responses(
    BadRequestError, NotFoundError, ConflictError, PreconditionFailedError, ValidationFailedError
)
CHANGE = {
    "more trials": {"summary": "40 trials in all, served before others", "value": {"num_samples": 40, "priority": 10}},
    "another end": {
        "summary": "a higher goal, and no limit of hours any more",
        "value": {"goal": 0.97, "budget": {"slot_hours": None}},
    },
}


CONTINUATION = {
    "as it is": {"summary": "as many new trials as the source was asked for", "value": {}},
    "twenty more": {
        "summary": "20 new trials under another searcher and budget",
        "value": {
            "name": "second-night",
            "searcher": {"kind": "tpe", "num_samples": 20},
            "budget": {"wall_clock": "8h"},
        },
    },
}


def patch_body(schema: dict[str, Any], examples: dict[str, Any], required: bool = True) -> dict[str, Any]:
    """A merge patch in the documentation."""
    content = {"schema": schema, "examples": examples}
    return {
        "requestBody": {
            "required": required,
            "content": dict.fromkeys((merge_patch.MEDIA_TYPE, "application/json"), content),
        }
    }


@router.post("/pause", responses=REFUSALS)
def pause_experiment(
    service: Service, response: Response, experiment_id: ExperimentId, if_match: IfMatch
) -> ExperimentView:
    """Let go of all slots and keep every epoch: at once while it waits, else as soon as its trials stop.

    Asking again changes nothing. What has ended, or is being canceled, answers 409.
    """
    return _changed(service, response, experiment_id, if_match, actions.pause)


@router.post("/resume", responses=REFUSALS)
def resume_experiment(
    service: Service, response: Response, experiment_id: ExperimentId, if_match: IfMatch
) -> ExperimentView:
    """Queue a paused experiment again, in the place that its age gives it; its trials go on where they were.

    One in ERROR too, when what was wrong is mended, and a complete one that has trials left or whose winner was not
    measured. 409 while it is still pausing, and for a canceled one: `continue` makes a new experiment of that.
    """
    return _changed(service, response, experiment_id, if_match, actions.resume)


@router.post("/cancel", responses=REFUSALS)
def cancel_experiment(
    service: Service, response: Response, experiment_id: ExperimentId, if_match: IfMatch
) -> ExperimentView:
    """End an experiment: at once while it waits, else as soon as its trials stop.

    Asking again changes nothing. An experiment that has ended otherwise answers 409 and says how.
    """
    return _changed(service, response, experiment_id, if_match, actions.cancel)


@router.patch(
    "",
    responses={**REFUSALS, **error_responses(ContentTooLargeError, UnsupportedMediaTypeError)},
    openapi_extra=patch_body({"$ref": "#/components/schemas/ControlsPatch"}, CHANGE),
)
def change_experiment(
    request: Request, service: Service, response: Response, experiment_id: ExperimentId, if_match: IfMatch, body: Body
) -> ExperimentView:
    """Change priority, num_samples, max_concurrent_trials, max_restarts, goal or budget by a merge patch (RFC 7396).

    `null` sets a field back to its default, where it has one. A running experiment obeys with its next heartbeat, a
    waiting or paused one when it runs, one in ERROR when it is resumed. A complete one is queued again when
    num_samples, goal or budget changed so that there may be work left; where there is none, `warnings` of the answer
    say what else must change: when all of its trials have ended, a higher goal or budget is of no use without more
    num_samples. A canceled one answers 409: continue from it. The spec stays as it was accepted.
    """
    patch = merge_patch.parse(body, request.headers.get("content-type", ""))
    said: list[str] = []

    def act(session: Session, experiment: Experiment, now: datetime) -> None:
        said.extend(actions.change(session, experiment, patch, now))

    view = _changed(service, response, experiment_id, if_match, act)
    return view.model_copy(update={"warnings": [*view.warnings, *said]})


@router.post(
    "/continue",
    status_code=201,
    responses={**REFUSALS, **error_responses(ContentTooLargeError, UnsupportedMediaTypeError)},
    openapi_extra=patch_body({"type": "object", "title": "SpecPatch"}, CONTINUATION, required=False),
)
def continue_experiment(
    request: Request,
    service: Service,
    response: Response,
    experiment_id: ExperimentId,
    if_match: IfMatch,
    body: Body,
    key: Key = None,
) -> ExperimentView:
    """Queue a new experiment that takes over the trials of one that has ended or is paused, and searches on.

    The body is a merge patch (RFC 7396) over the source's spec, or nothing. dataset, search_space, max_epochs,
    early_stopping, seed and the objective's metric must stay, or trials could not be compared; a grid cannot be
    continued as one. `searcher.num_samples` counts new trials. The source stays as it is; `source_id` names it. Sent
    again under the same `Idempotency-Key`, the answer is the experiment that was made then, as it is now.
    """
    media_type = request.headers.get("content-type", "")
    sha256 = idempotency.digest(media_type, body, experiment_id)
    with service.database.read() as session:
        known = None if key is None else idempotency.find_replayed(session, key, sha256)
        if known is not None:
            return stored(service, response, known, replayed=True)
        source = experiments.find(session, experiment_id)
        asked = continuation.spec_of(source, merge_patch.parse(body, media_type) if body else {})
    spec = fitting.complete(asked, service.cluster_cache.cluster)
    dataset_checks.check(spec.dataset, service.settings.data_root)

    def make(session: Session) -> Experiment:
        source = experiments.find(session, experiment_id, lock=True)
        if_match.check(source)
        return continuation.submit(session, source, spec, validation.warnings(spec))

    made, replayed = idempotency.submit_once(service.database, key, sha256, make)
    service.wake.set()
    return stored(service, response, made, replayed)


@router.post("/archive", responses=REFUSALS)
def archive_experiment(
    service: Service, response: Response, experiment_id: ExperimentId, if_match: IfMatch
) -> ExperimentView:
    """Hide an experiment that has ended or is paused from the lists, unless they ask for the archived."""
    return _changed(service, response, experiment_id, if_match, actions.archive)


@router.post("/unarchive", responses=REFUSALS)
def unarchive_experiment(
    service: Service, response: Response, experiment_id: ExperimentId, if_match: IfMatch
) -> ExperimentView:
    """Show an experiment in the lists again."""
    return _changed(service, response, experiment_id, if_match, actions.unarchive)


@router.delete("", status_code=202, responses=REFUSALS)
def delete_experiment(
    service: Service, response: Response, experiment_id: ExperimentId, if_match: IfMatch
) -> ExperimentView:
    """Remove an experiment that has ended or is paused: its files, its runs in MLflow, its registered models, itself.

    Answers at once; when all is gone, its address answers 404. There is no way back: archive it to only hide it.
    Artifacts go where MLflow's server hands them out itself. MLflow's REST interface only marks runs and logged models
    as deleted: `mlflow gc`, run beside its server, removes them from its database, and artifacts that lie elsewhere.
    """
    return _changed(service, response, experiment_id, if_match, actions.delete)


def _changed(
    service: AppContext,
    response: Response,
    experiment_id: str,
    if_match: Precondition,
    act: Callable[[Session, Experiment, datetime], None],
) -> ExperimentView:
    """Act on the locked row if it is at the revision that was asked for, and wake the reconciler."""
    with service.database.write() as session:
        experiment = experiments.find(session, experiment_id, lock=True)
        if_match.check(experiment)
        act(session, experiment, datetime.now(UTC))
        view = shown(session, service, response, experiment_id)  # before a deletion can have gone through
    service.wake.set()
    return view
