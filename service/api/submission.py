"""Submission: from the bytes of a request to a queued experiment, new or continued from another.

The order matters: a request that is repeated is answered before its body is validated again, because what was accepted
once stays accepted; and nothing is stored before everything is checked. It must not know routes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from search_spaces import validation
from search_spaces.experiment import ExperimentSpec
from search_spaces.parsing import JSON_TYPES, YAML_TYPES, read
from search_spaces.problems import Problem
from service.api.access import EditableHandle
from service.context import AppContext
from service.contract.errors import UnsupportedMediaTypeError
from service.domain import continuation, dataset_checks, experiments, idempotency, merge_patch, model_names
from service.scheduling import fitting
from service.store.models import Experiment


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    body: bytes
    content_type: str
    key: str | None = None


@dataclass(frozen=True)
class Checked:
    """A valid and complete spec, and its warnings."""

    spec: ExperimentSpec
    warnings: list[str]


@dataclass(frozen=True)
class Submitted:
    """The experiment that a request stands for; `replayed` when an earlier request with its key created it."""

    experiment_id: str
    replayed: bool = False


def check(context: AppContext, request: Request) -> Checked:
    """The complete spec that a request holds. Raises SpecError, UnsupportedMediaTypeError."""
    checked = _checked(context, request)
    with context.database.read() as session:
        return replace(checked, warnings=[*checked.warnings, *model_names.warnings(session, checked.spec)])


def submit(context: AppContext, request: Request) -> Submitted:
    """Queue the experiment that a request describes. Raises SpecError, UnsupportedMediaTypeError."""
    sha256 = idempotency.digest(_spec_type(request.content_type), request.body)
    if known := _find_replayed(context, request.key, sha256):
        return known
    checked = _checked(context, request)

    def create(session: Session) -> Experiment:
        warnings = [*checked.warnings, *model_names.warnings(session, checked.spec)]
        return experiments.submit(session, checked.spec, warnings)

    return _store(context, request.key, sha256, create)


def continue_from(source: EditableHandle, request: Request) -> Submitted:
    """Queue a continuation of the source, its spec changed by the request's merge patch.

    Raises SpecError, UnsupportedMediaTypeError, ConflictError while the source is active, PreconditionFailedError.
    """
    context = source.context
    sha256 = idempotency.digest(request.content_type, request.body, source.experiment_id)
    if known := _find_replayed(context, request.key, sha256):
        return known
    with source.read() as (_, experiment):
        patch = merge_patch.parse(request.body, request.content_type) if request.body else {}
        requested = continuation.requested_spec(experiment, patch)
    spec = _complete(context, requested).spec

    def create(session: Session) -> Experiment:
        return continuation.submit(session, source.lock(session), spec, patch)

    return _store(context, request.key, sha256, create)


def _checked(context: AppContext, request: Request) -> Checked:
    document = read(request.body, _spec_type(request.content_type))
    complete = _complete(context, validation.validate(document))
    return replace(complete, warnings=[*validation.warnings(complete.spec, document), *complete.warnings])


def _spec_type(content_type: str) -> str:
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in JSON_TYPES | YAML_TYPES:
        problem = Problem("Content-Type", "must be application/json or application/yaml", media_type[:100] or "none")
        raise UnsupportedMediaTypeError(str(problem), [problem])
    return media_type


def _complete(context: AppContext, spec: ExperimentSpec) -> Checked:
    """The spec with its resources decided, and what the data root tells. Raises SpecError where the cluster or the data
    root cannot serve it."""
    spec = fitting.complete(spec, context.cluster_cache.cluster)
    settings = context.settings
    return Checked(spec, dataset_checks.check(spec.dataset, settings.data_root, settings.data_root_shared))


def _find_replayed(context: AppContext, key: str | None, sha256: str) -> Submitted | None:
    if key is None:
        return None
    with context.database.read() as session:
        known = idempotency.find_replayed(session, key, sha256)
    return None if known is None else Submitted(known, replayed=True)


def _store(context: AppContext, key: str | None, sha256: str, create: Callable[[Session], Experiment]) -> Submitted:
    submitted = Submitted(*idempotency.submit_once(context.database, key, sha256, create))
    context.wake.set()
    return submitted
