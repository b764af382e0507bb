"""Access: how a route gets an experiment. The only lookup of one by its id, so that permissions have one home.

A route declares `VisibleExperiment` to read an experiment, `EditableExperiment` to change it, and `ExperimentList` to
list them. What a person may see and change is decided here, in `_find` and in `ExperimentListHandle`: what the caller
may not see is absent, and what the caller may see but not do is refused. Each is a handle on which the route opens a
transaction in its own thread (docs/decisions/0012-routes-open-their-transactions.md). A change is recorded in the
audit log in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, Response
from sqlalchemy.orm import Session

from search_spaces.problems import Problem
from search_spaces.protocol import API_PREFIX, DEFAULT_TEAM
from service.api import changes, etags, headers, serializers
from service.api.callers import Caller, CurrentCaller
from service.api.dependencies import CurrentContext, ExperimentId, IfMatchHeader
from service.api.etags import IfMatch
from service.context import AppContext
from service.contract.errors import ValidationFailedError
from service.contract.schemas import ExperimentView
from service.contract.states import ACTIVE, INACTIVE
from service.domain import accounting, attempts, experiments, pool_rights, queue_limit, team_storage, waiting, webhooks
from service.domain.experiments import Selection
from service.identity import audit, teams
from service.identity.permissions import Permission, allows, teams_with
from service.scheduling import grants
from service.store.accounts import Team
from service.store.models import Experiment
from service.store.webhooks import Webhook


@dataclass(frozen=True)
class VisibleHandle:
    """An experiment that the caller may see, and to which the caller's permission extends."""

    context: AppContext
    caller: Caller
    response: Response
    experiment_id: str

    @contextmanager
    def read(self) -> Iterator[tuple[Session, Experiment]]:
        """One snapshot of the database, and the experiment in it. Raises NotFoundError, ForbiddenError."""
        with self.context.database.read() as session:
            yield session, _find(session, self.caller, self.experiment_id)

    def show(self) -> ExperimentView:
        """The experiment as the response's body, its revision as the ETag. Raises NotFoundError, ForbiddenError."""
        with self.read() as (session, experiment):
            return self._view(session, experiment)

    def _view(self, session: Session, experiment: Experiment) -> ExperimentView:
        counts = experiments.count_trials(session, [experiment.id])[experiment.id]
        self.response.headers[headers.ETAG] = etags.etag(experiment.revision)
        drivers = attempts.list_all(session, experiment)
        outage = self.context.cluster_cache.unreachable_reason
        terms = grants.of_team(session, experiment.pool, experiment.team_id)
        ceiling = None if terms is None else terms.max_priority
        used = accounting.used(session, [experiment.id])[experiment.id]
        view = serializers.full(experiment, counts, used, drivers, self.context.mlflow, outage, ceiling)
        return view.model_copy(update={"source_id": visible_source(self.caller, experiment)})


@dataclass(frozen=True)
class EditableHandle(VisibleHandle):
    """An experiment that the caller may change, if it is at the revision that If-Match gives."""

    if_match: IfMatch

    def lock(self, session: Session) -> Experiment:
        """The experiment, locked for the session's transaction.

        Raises NotFoundError, ForbiddenError, PreconditionFailedError.
        """
        experiment = _find(session, self.caller, self.experiment_id, lock=True)
        self.if_match.check(experiment.id, experiment.revision)
        return experiment

    @contextmanager
    def edit(self) -> Iterator[tuple[Session, Experiment]]:
        """A transaction with the locked experiment; when it is committed, the reconciler looks at the change."""
        with changes.transaction(self.context, self.caller) as session:
            experiment = self.lock(session)
            before = _recorded(experiment)
            yield session, experiment
            after, act = _recorded(experiment), self.caller.act
            if before["state"] in INACTIVE and after["state"] in ACTIVE:
                teams.lock_open(session, experiment.team_id)
                pool_rights.check(session, experiment.team_id, experiment.pool, lock=True)
                queue_limit.check(session, experiment.team_id, experiment.pool, experiment.id)
                team_storage.check(session, experiment.team_id)
            changed = {name for name in after if after[name] != before[name]}
            act.change = {
                **(act.change or {}),
                "before": {name: before[name] for name in sorted(changed)},
                "after": {name: after[name] for name in sorted(changed)},
            }
            audit.record(session, act, datetime.now(UTC))
        self.context.wake.set()

    def apply(self, action: Callable[[Session, Experiment, datetime], None]) -> ExperimentView:
        """The experiment after the action. It is read before the commit: a deletion may be complete right after."""
        with self.edit() as (session, experiment):
            action(session, experiment, datetime.now(UTC))
            return self._view(session, experiment)


@dataclass(frozen=True)
class ExperimentListHandle:
    """The experiments that the caller may see."""

    context: AppContext
    caller: Caller

    def newest(self, session: Session, selection: Selection) -> list[Experiment]:
        """The selected ones, newest first."""
        visible = teams_with(self.caller.principal, Permission.EXPERIMENT_READ)
        if selection.teams is not None and visible is not None:
            visible &= frozenset(selection.teams)
        return experiments.list_newest(
            session, replace(selection, teams=selection.teams if visible is None else visible)
        )

    def active(self, session: Session, limit: int, after: tuple[datetime, str] | None) -> list[Experiment]:
        """Those that run or wait to run, oldest first, from `after` on: creation time and id of an older one."""
        visible = teams_with(self.caller.principal, Permission.EXPERIMENT_READ)
        return experiments.list_active(session, limit, after, visible)

    def named(self, ids: Iterable[str]) -> list[VisibleHandle]:
        """Those with these ids; one that the caller may not see is not found when it is read."""
        return [VisibleHandle(self.context, self.caller, Response(), one) for one in ids]

    def waiting(self, session: Session, limit: int, after: tuple[int, str, str]) -> list[tuple[int, Experiment]]:
        """Those that wait behind a position in a team and pool, with their own positions."""
        visible = teams_with(self.caller.principal, Permission.EXPERIMENT_READ)
        return waiting.in_order(session, limit, after, visible)

    def count_waiting(self, session: Session) -> tuple[int, int]:
        """How many of them wait, and how many experiments of other teams."""
        counts, visible = waiting.count(session), teams_with(self.caller.principal, Permission.EXPERIMENT_READ)
        own = sum(count for team, count in counts.items() if visible is None or team in visible)
        return own, counts.total() - own


def find_team(session: Session, caller: Caller, team: str, *, lock: bool = False) -> Team:
    """A team. Raises NotFoundError for one that the caller may not see, ForbiddenError for one in which the caller's
    permission does not hold."""
    row = teams.find(session, team, teams_with(caller.principal, Permission.TEAM_READ), lock=lock)
    caller.act.team = row.id
    if not caller.may(row.id):
        raise caller.refusal(row.id)
    return row


def managed_teams(session: Session, caller: Caller, asked: str | None) -> Collection[str] | None:
    """The team that is asked for, otherwise all in which the caller's permission holds (None: all there are). Raises
    as `find_team`."""
    if asked is not None:
        return {find_team(session, caller, asked).id}
    return teams_with(caller.principal, caller.permission)


def managed_team(session: Session, caller: Caller, asked: str | None) -> Team:
    """The team that is asked for, otherwise the only one in which the caller's permission holds, locked. Raises as
    `find_team`, and ValidationFailedError where there are several."""
    own = sorted(team for team in caller.principal.roles if caller.may(team))
    own = own if caller.principal.has_account else [DEFAULT_TEAM]
    if asked is None and len(own) != 1:
        problem = Problem("team", "must be given" + (f": one of {', '.join(own)}" if own else ""))
        raise ValidationFailedError(str(problem), [problem])
    return find_team(session, caller, own[0] if asked is None else asked, lock=True)


def find_webhook(session: Session, caller: Caller, webhook_id: str, *, lock: bool = False) -> Webhook:
    """A webhook of a team in which the caller's permission holds. Raises NotFoundError."""
    row = webhooks.find(session, webhook_id, teams_with(caller.principal, caller.permission), lock=lock)
    caller.act.team = row.team_id
    return row


def created(
    context: AppContext, caller: Caller, response: Response, experiment_id: str, replayed: bool
) -> ExperimentView:
    """The response to a submission that created an experiment, now or (`replayed`) when its key was sent first."""
    response.headers[headers.LOCATION] = f"{API_PREFIX}/experiments/{experiment_id}"
    caller.act.object = f"experiments/{experiment_id}"
    if replayed:
        response.headers[headers.REPLAYED] = "true"
    return VisibleHandle(context, caller, response, experiment_id).show()


def visible_source(caller: Caller, experiment: Experiment) -> str | None:
    """The experiment that this one continues from, if the caller may see experiments of its team."""
    seen = allows(caller.principal, Permission.EXPERIMENT_READ, experiment.source_team_id)
    return experiment.source_id if seen else None


def _find(session: Session, caller: Caller, experiment_id: str, *, lock: bool = False) -> Experiment:
    """Raises NotFoundError for what the caller may not see, ForbiddenError for what the caller may see but not do."""
    visible = teams_with(caller.principal, Permission.EXPERIMENT_READ)
    experiment = experiments.find(session, experiment_id, lock=lock, teams=visible)
    caller.act.team = experiment.team_id
    if not caller.may(experiment.team_id):
        raise caller.refusal(experiment.team_id)
    return experiment


def _recorded(experiment: Experiment) -> dict[str, Any]:
    """What the audit log says of an experiment before and after a change."""
    archived_at = experiment.archived_at
    return {
        "name": experiment.name,
        "state": str(experiment.state),
        "revision": experiment.revision,
        "controls": experiment.controls,
        "archived_at": None if archived_at is None else archived_at.isoformat(),
    }


async def _visible(
    context: CurrentContext, caller: CurrentCaller, response: Response, experiment_id: ExperimentId
) -> VisibleHandle:
    return VisibleHandle(context, caller, response, experiment_id)


async def _editable(
    context: CurrentContext,
    caller: CurrentCaller,
    response: Response,
    experiment_id: ExperimentId,
    if_match: IfMatchHeader,
) -> EditableHandle:
    return EditableHandle(context, caller, response, experiment_id, if_match)


async def _listed(context: CurrentContext, caller: CurrentCaller) -> ExperimentListHandle:
    return ExperimentListHandle(context, caller)


VisibleExperiment = Annotated[VisibleHandle, Depends(_visible)]
EditableExperiment = Annotated[EditableHandle, Depends(_editable)]
ExperimentList = Annotated[ExperimentListHandle, Depends(_listed)]
