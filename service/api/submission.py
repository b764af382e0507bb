"""Submission: from the bytes of a request to a queued experiment, new or continued from another.

The order matters: a request that is repeated is answered before its body is validated again, because what was accepted
once stays accepted; and nothing is stored before everything is checked. It must not know routes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from search_spaces import validation
from search_spaces.experiment import ExperimentSpec
from search_spaces.parsing import JSON_TYPES, YAML_TYPES, read
from search_spaces.problems import Problem, SpecError
from search_spaces.protocol import DEFAULT_TEAM
from service.api import changes
from service.api.access import EditableHandle
from service.api.callers import Caller
from service.context import AppContext
from service.contract.errors import UnsupportedMediaTypeError
from service.contract.forecast import Forecast
from service.domain import (
    budgets,
    continuation,
    dataset_checks,
    earlier,
    experiments,
    forecasts,
    idempotency,
    merge_patch,
    model_names,
    pool_rights,
    team_storage,
)
from service.domain.experiments import Belonging
from service.domain.idempotency import Submission
from service.identity import audit, teams
from service.identity.permissions import Permission, allows, teams_with
from service.scheduling import fitting, pools
from service.store.models import Experiment


@dataclass(frozen=True)
class Request:
    """What a client sent. `team` is the one that it asks for, if any."""

    caller: Caller
    body: bytes
    content_type: str
    key: str | None = None
    team: str | None = None


@dataclass(frozen=True)
class Checked:
    """A valid and complete spec, its warnings, and what it will probably take where that was asked for."""

    spec: ExperimentSpec
    warnings: list[str]
    forecast: Forecast | None = None


@dataclass(frozen=True)
class Submitted:
    """The experiment that a request stands for; `replayed` when an earlier request with its key created it."""

    experiment_id: str
    replayed: bool = False


def check(context: AppContext, request: Request) -> Checked:
    """The complete spec that a request holds, with its forecast.

    Raises SpecError, UnsupportedMediaTypeError, and what `teams.target` does.
    """
    request.caller.act.changes_nothing = True
    team = _target(context, request)
    checked = _checked(context, request, team)
    with context.database.read() as session:
        changes.confirm(context, session, request.caller)
        earlier.check(session, checked.spec, team)
        visible = teams_with(request.caller.principal, Permission.EXPERIMENT_READ)
        return replace(
            checked,
            warnings=[*checked.warnings, *_of_the_team(session, checked.spec, team)],
            forecast=forecasts.of(session, checked.spec, visible),
        )


def submit(context: AppContext, request: Request) -> Submitted:
    """Queue the experiment that a request describes. Raises SpecError, UnsupportedMediaTypeError, and what
    `teams.target` does."""
    sha256 = idempotency.digest(_spec_type(request.content_type), request.body, team=request.team or DEFAULT_TEAM)
    submission = Submission(request.caller.principal.id, request.key, sha256)
    if known := _find_replayed(context, request.caller, submission):
        return known
    request.caller.act.team = team = _target(context, request)
    checked = _checked(context, request, team)

    def create(session: Session) -> Experiment:
        teams.lock_open(session, team)
        earlier.check(session, checked.spec, team)
        warnings = [*checked.warnings, *_of_the_team(session, checked.spec, team)]
        belonging = Belonging(team, request.caller.principal.user_id)
        return _recorded(
            session, request.caller, experiments.submit(session, checked.spec, warnings, belonging=belonging)
        )

    return _store(context, request.caller, submission, create)


def continue_from(source: EditableHandle, request: Request) -> Submitted:
    """Queue a continuation of the source, its spec changed by the request's merge patch. By default it goes to the
    team of the source, if the caller may submit to that.

    Raises SpecError, UnsupportedMediaTypeError, ConflictError while the source is active, PreconditionFailedError, and
    what `teams.target` does.
    """
    context, principal = source.context, request.caller.principal
    asked = request.team or DEFAULT_TEAM
    sha256 = idempotency.digest(request.content_type, request.body, source.experiment_id, asked)
    submission = Submission(principal.id, request.key, sha256)
    if known := _find_replayed(context, request.caller, submission):
        return known
    with source.read() as (_, experiment):
        own = experiment.team_id if allows(principal, Permission.EXPERIMENT_SUBMIT, experiment.team_id) else None
    team = _target(context, replace(request, team=request.team or own))
    with source.read() as (_, experiment):
        patch = merge_patch.parse(request.body, request.content_type) if request.body else {}
        requested = continuation.requested_spec(experiment, patch)
    spec = _complete(context, requested, team).spec

    def create(session: Session) -> Experiment:
        locked = source.lock(session)
        teams.lock_open(session, team)  # after the experiment, as everywhere
        earlier.check(session, spec, team)
        belonging = Belonging(team, principal.user_id)
        new = continuation.submit(session, locked, spec, patch, belonging)
        return _recorded(session, request.caller, new)

    return _store(context, request.caller, submission, create)


def _of_the_team(session: Session, spec: ExperimentSpec, team: str) -> list[str]:
    """What the team's other experiments make worth knowing."""
    now = datetime.now(UTC)
    of_team = [*budgets.warnings(session, team, now), *team_storage.warnings(session, team)]
    return [*model_names.warnings(session, spec, team), *of_team]


def _target(context: AppContext, request: Request) -> str:
    """The team that a request submits to."""
    with context.database.read() as session:
        return teams.target(session, request.caller.principal, request.team)


def _recorded(session: Session, caller: Caller, experiment: Experiment) -> Experiment:
    """The new experiment, with a row in the audit log, which the managers of its team read."""
    act = caller.act
    after = {"name": experiment.name, "project": experiment.project, "state": str(experiment.state)}
    act.object, act.team = f"experiments/{experiment.id}", experiment.team_id
    if experiment.source_team_id == experiment.team_id:
        after["source_id"] = str(experiment.source_id)
    act.change = {"after": after}
    audit.record(session, act, experiment.created_at)
    return experiment


def _checked(context: AppContext, request: Request, team: str) -> Checked:
    document = read(request.body, _spec_type(request.content_type))
    complete = _complete(context, validation.validate(document), team)
    with context.database.read() as session:
        of_earlier = earlier.warnings(session, complete.spec, team)
    of_spec = validation.warnings(complete.spec, document)
    return replace(complete, warnings=[*of_spec, *complete.warnings, *of_earlier])


def _spec_type(content_type: str) -> str:
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in JSON_TYPES | YAML_TYPES:
        problem = Problem("Content-Type", "must be application/json or application/yaml", media_type[:100] or "none")
        raise UnsupportedMediaTypeError(str(problem), [problem])
    return media_type


def _complete(context: AppContext, spec: ExperimentSpec, team: str) -> Checked:
    """The spec with its resources decided, and what the data root tells. Raises SpecError where the team may not use
    the pool, or the pool or the data root cannot serve it."""
    pool, cluster, settings = spec.resources.pool, context.cluster_cache.cluster, context.settings
    with context.database.read() as session:
        pool_rights.check(session, team, pool)
        nodes = pools.nodes(session)
    cluster = cluster and pools.part(cluster, pool, nodes)
    if problems := fitting.unknown_gpu_types(spec.resources, cluster):
        raise SpecError(problems)
    spec = fitting.complete(spec, cluster)
    notes = dataset_checks.check(
        spec.dataset, settings.data_root, settings.data_root_shared, settings.allowed_data_buckets
    )
    return Checked(spec, notes)


def _find_replayed(context: AppContext, caller: Caller, submission: Submission) -> Submitted | None:
    with context.database.read() as session:
        changes.confirm(context, session, caller)
        known = idempotency.find_replayed(session, submission)
    return None if known is None else Submitted(known, replayed=True)


def _store(
    context: AppContext, caller: Caller, submission: Submission, create: Callable[[Session], Experiment]
) -> Submitted:
    def begin(session: Session) -> None:
        changes.begin(context, session, caller)

    submitted = Submitted(*idempotency.submit_once(context.database, submission, begin, create))
    context.wake.set()
    return submitted
