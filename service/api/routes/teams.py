"""Routes of teams: who is in them, and with which role."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from search_spaces.protocol import API_PREFIX
from service.api import access, account_views, changes, headers
from service.api.account_fields import LoginPath, Name, TeamPath
from service.api.callers import Caller, CurrentCaller, may
from service.api.dependencies import CurrentContext
from service.api.error_handlers import error_responses
from service.context import AppContext
from service.contract.errors import ConflictError, NotFoundError
from service.contract.identity import Role, TeamList, TeamView
from service.domain import team_storage
from service.identity import audit, principals, teams
from service.identity.permissions import Permission, teams_with
from service.store.accounts import Team

router = APIRouter(prefix=f"{API_PREFIX}/teams", tags=["accounts"])


class TeamRequest(BaseModel):
    """A team to be made."""

    model_config = ConfigDict(extra="forbid")

    team: Name = Field(description="Short name, which never changes.", examples=["vision"])
    name: Name = Field("", description="Name for others to read.", examples=["Computer vision"])


class RoleRequest(BaseModel):
    """The role of a member."""

    model_config = ConfigDict(extra="forbid")

    role: Role = Field(description="What the person may do in the team.")


class StorageRequest(BaseModel):
    """How much the files of a team may take."""

    model_config = ConfigDict(extra="forbid")

    limit_bytes: int | None = Field(
        strict=True,
        description="Size in bytes; null is no limit.",
        json_schema_extra={"minimum": 0, "maximum": team_storage.MAX_BYTES},
    )


@router.get(
    "",
    summary="List teams",
    dependencies=[may(Permission.ACCOUNT_USE)],
    responses={200: headers.success("The teams that you may see.")},
)
def list_teams(context: CurrentContext, caller: CurrentCaller) -> TeamList:
    """Lists your teams, without their members; for administrators, all teams."""
    with context.database.read() as session:
        rows = teams.list_all(session, teams_with(caller.principal, Permission.TEAM_READ))
    return TeamList(items=[account_views.team(row) for row in rows])


@router.post(
    "",
    summary="Create a team",
    dependencies=[may(Permission.TEAM_CREATE)],
    status_code=201,
    responses={201: headers.success("The team."), **error_responses(ConflictError)},
)
def create_team(context: CurrentContext, caller: CurrentCaller, wanted: TeamRequest) -> TeamView:
    """Creates a team without members. Its short name has 2 to 63 of the characters a-z, 0-9 and `-`."""
    now = datetime.now(UTC)
    with changes.transaction(context, caller, of_rights=True) as session:
        row = teams.create(session, wanted.team, wanted.name, now)
        caller.act.object, caller.act.team = f"teams/{row.id}", row.id
        caller.act.change = {"after": {"name": row.name}}
        audit.record(session, caller.act, now)
    return account_views.team(row)


@router.get(
    "/{team}",
    summary="Get a team",
    dependencies=[may(Permission.TEAM_READ)],
    responses={200: headers.success("The team and its members."), **error_responses(NotFoundError)},
)
def show_team(context: CurrentContext, caller: CurrentCaller, team: TeamPath) -> TeamView:
    """Returns a team of yours with its members; for administrators, any team."""
    with context.database.read() as session:
        row = access.find_team(session, caller, team)
        return _view(session, row)


@router.put(
    "/{team}/storage",
    summary="Limit a team's storage",
    dependencies=[may(Permission.BUDGET_MANAGE)],
    responses={200: headers.success("The team."), **error_responses(NotFoundError)},
)
def set_storage_limit(
    context: CurrentContext, caller: CurrentCaller, team: TeamPath, wanted: StorageRequest
) -> TeamView:
    """Sets how much the files of a team's experiments may take. A team that uses all of it can submit and resume
    nothing until it has deleted something; what runs continues."""
    with changes.transaction(context, caller) as session:
        row = access.find_team(session, caller, team, lock=True)
        before = team_storage.limit(session, row, wanted.limit_bytes)
        caller.act.change = {"before": {"limit_bytes": before}, "after": {"limit_bytes": wanted.limit_bytes}}
        audit.record(session, caller.act, datetime.now(UTC))
        session.flush()
        return _view(session, row)


@router.put(
    "/{team}/members/{login}",
    summary="Add a member or change a role",
    dependencies=[may(Permission.TEAM_MANAGE)],
    responses={200: headers.success("The team with its members."), **error_responses(NotFoundError)},
)
def set_member(
    context: CurrentContext, caller: CurrentCaller, team: TeamPath, login: LoginPath, wanted: RoleRequest
) -> TeamView:
    """Gives a person a role in the team. It holds from the person's next request on."""
    now = datetime.now(UTC)
    with changes.transaction(context, caller, of_rights=True) as session:
        row = access.find_team(session, caller, team, lock=True)
        before = teams.set_member(session, row, login, principals.Role(wanted.role))
        caller.act.change = {"login": login, "before": {"role": before}, "after": {"role": wanted.role}}
        audit.record(session, caller.act, now)
        session.flush()
        return _view(session, row)


@router.delete(
    "/{team}/members/{login}",
    summary="Remove a member",
    dependencies=[may(Permission.TEAM_READ)],
    status_code=204,
    responses={204: headers.success("The person is not in the team."), **error_responses(NotFoundError)},
)
def remove_member(context: CurrentContext, caller: CurrentCaller, team: TeamPath, login: LoginPath) -> Response:
    """Takes a person out of the team at once; everybody may leave. Experiments that the person submitted stay with the
    team. Answers 403 for a token that is restricted to a team or a role, and for others if you do not manage the team.
    """
    now, leaves = datetime.now(UTC), caller.principal.user_id is not None and login == caller.principal.login
    if leaves:
        caller.check(Permission.ACCOUNT_CHANGE)
    with changes.transaction(context, caller, of_rights=True) as session:
        needs = Permission.TEAM_READ if leaves else Permission.TEAM_MANAGE
        row = access.find_team(session, caller.with_permission(needs), team, lock=True)
        before = teams.remove_member(session, row, login)
        caller.act.change = {"login": login, "before": {"role": before}, "after": {"role": None}}
        audit.record(session, caller.act, now)
    return Response(status_code=204)


@router.post(
    "/{team}/archive",
    summary="Archive a team",
    dependencies=[may(Permission.TEAM_CREATE)],
    responses={200: headers.success("The team."), **error_responses(NotFoundError, ConflictError)},
)
def archive_team(context: CurrentContext, caller: CurrentCaller, team: TeamPath) -> TeamView:
    """Lets a team's members only read, and nothing be submitted to it. Answers 409 while experiments of it are
    active."""
    return _archive(context, caller, team, True)


@router.post(
    "/{team}/unarchive",
    summary="Unarchive a team",
    dependencies=[may(Permission.TEAM_CREATE)],
    responses={200: headers.success("The team."), **error_responses(NotFoundError)},
)
def unarchive_team(context: CurrentContext, caller: CurrentCaller, team: TeamPath) -> TeamView:
    """Lets a team work again as before it was archived."""
    return _archive(context, caller, team, False)


def _archive(context: AppContext, caller: Caller, team: str, archived: bool) -> TeamView:
    now = datetime.now(UTC)
    with changes.transaction(context, caller, of_rights=True) as session:
        row = access.find_team(session, caller, team, lock=True)
        was = row.archived_at is not None
        if archived:
            teams.archive(session, row, now)
        else:
            teams.unarchive(row)
        caller.act.change = {"before": {"archived": was}, "after": {"archived": archived}}
        audit.record(session, caller.act, now)
        return _view(session, row)


def _view(session: Session, row: Team) -> TeamView:
    return account_views.team(row, teams.members(session, row), team_storage.of(session, row.id))
