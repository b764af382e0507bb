"""Teams: how they are made, who is in them with which role, and which one a submission goes to.

It must not know HTTP, nor whether the caller may do this.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from search_spaces.problems import Problem, SpecError, shorten
from search_spaces.protocol import DEFAULT_TEAM
from service.contract.errors import ConflictError, ForbiddenError, NotFoundError, ValidationFailedError
from service.contract.states import ACTIVE
from service.identity import users
from service.identity.permissions import Permission, allows, refusal, teams_with
from service.identity.principals import Principal, Role
from service.store.accounts import TEAM_CHARACTERS, Member, Team, User
from service.store.models import Experiment

#: The names of MLflow's workspaces, one of which a team may get.
SLUG = re.compile(rf"(?=.{{2,{TEAM_CHARACTERS}}}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII)
SLUG_RULE = f"must have 2 to {TEAM_CHARACTERS} of the characters a-z, 0-9 and -, and no - at its ends"
#: MLflow uses them as parts of addresses.
RESERVED = frozenset({"workspaces", "api", "ajax-api", "static-files"})


def create(session: Session, team: str, name: str, now: datetime) -> Team:
    """Raises SpecError for a bad short name, ConflictError for one that is taken."""
    if not SLUG.fullmatch(team):
        raise SpecError([Problem("team", SLUG_RULE, shorten(team))])
    if team in RESERVED:
        raise SpecError([Problem("team", f"must not be {' or '.join(sorted(RESERVED))}", team)])
    taken = f"there is a team {team!r} already"
    if session.get(Team, team) is not None:
        raise ConflictError(taken)
    row = Team(id=team, name=name, created_at=now)
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:  # somebody else was faster: only PostgreSQL has two writers at the same time
        raise ConflictError(taken) from None
    return row


def find(session: Session, team: str, among: Collection[str] | None, *, lock: bool = False) -> Team:
    """A team of those in `among` (None: of all). Raises NotFoundError, also for a team outside of these."""
    query = select(Team).where(Team.id == team[: TEAM_CHARACTERS + 1].replace("\0", ""))
    query = query if among is None else query.where(Team.id.in_(among))
    row = session.scalar(query.with_for_update() if lock else query)
    if row is None:
        shown = shorten(team)
        raise NotFoundError(f"there is no team {shown!r}", [Problem("team", "must be the short name of a team", shown)])
    return row


def list_all(session: Session, among: Collection[str] | None) -> list[Team]:
    """These teams (None: all), by short name."""
    query = select(Team).order_by(Team.id)
    return list(session.scalars(query if among is None else query.where(Team.id.in_(among))))


def members(session: Session, team: Team) -> list[tuple[User, Role]]:
    """Who is in a team, by login."""
    query = select(User, Member.role).join(Member, Member.user_id == User.id).where(Member.team_id == team.id)
    return [(user, Role(role)) for user, role in session.execute(query.order_by(User.login))]


def set_member(session: Session, team: Team, login: str, role: Role) -> Role | None:
    """Give a person a role in a team. Returns the role before, if there was one. Raises NotFoundError."""
    user = users.find(session, login)
    member = session.get(Member, (team.id, user.id), with_for_update=True)
    if member is None:
        session.add(Member(team_id=team.id, user_id=user.id, role=role))
        return None
    before, member.role = Role(member.role), role
    return before


def remove_member(session: Session, team: Team, login: str) -> Role:
    """Raises NotFoundError for a person who is not in the team."""
    user = users.find(session, login)
    member = session.get(Member, (team.id, user.id), with_for_update=True)
    if member is None:
        raise NotFoundError(f"{user.login} is not in the team {team.id}")
    session.delete(member)
    return Role(member.role)


def archive(session: Session, team: Team, now: datetime) -> None:
    """Nothing new can be submitted to it, and its members can only read. Raises ConflictError while it has active
    experiments, and for the team without which nobody could submit without accounts."""
    if team.id == DEFAULT_TEAM:
        raise ConflictError(
            f"the team {DEFAULT_TEAM!r} cannot be archived: what was stored without a team belongs to it"
        )
    query = select(Experiment.id).where(Experiment.team_id == team.id, Experiment.state.in_(ACTIVE)).limit(1)
    active = session.scalar(query)
    if active is not None:
        raise ConflictError(
            f"the team {team.id!r} has active experiments, such as {active}: cancel or pause them first"
        )
    team.archived_at = team.archived_at or now


def unarchive(team: Team) -> None:
    """Its members may do again what their roles say."""
    team.archived_at = None


def lock_open(session: Session, team: str) -> None:
    """Lock a team to which an experiment is added, or in which one is resumed. Raises ConflictError for an
    archived one."""
    _refuse_archived(find(session, team, None, lock=True))


def target(session: Session, principal: Principal, asked: str | None) -> str:
    """The team that a submission goes to: the one that is asked for, otherwise the only one that the principal may
    submit to. Raises NotFoundError, ForbiddenError, ConflictError for an archived team, and ValidationFailedError where
    there are several."""
    if asked is not None:
        team = find(session, asked, teams_with(principal, Permission.EXPERIMENT_READ))
        if not allows(principal, Permission.EXPERIMENT_SUBMIT, team.id):
            raise ForbiddenError(refusal(principal, Permission.EXPERIMENT_SUBMIT, team.id))
        _refuse_archived(team)
        return team.id
    if not principal.has_account:
        return DEFAULT_TEAM
    own = sorted(team for team in principal.roles if allows(principal, Permission.EXPERIMENT_SUBMIT, team))
    if not own and principal.admin:
        own = [team.id for team in list_all(session, None) if team.archived_at is None]
    if not own:
        raise ForbiddenError(
            f"{principal.login} may submit to no team: ask the manager of a team, or an administrator, to make you "
            "a member"
        )
    if len(own) > 1:
        problem = Problem("team", f"must be given: one of {', '.join(own)}")
        raise ValidationFailedError(str(problem), [problem])
    return own[0]


def _refuse_archived(team: Team) -> None:
    if team.archived_at is not None:
        raise ConflictError(f"the team {team.id!r} is archived: nothing can be submitted to it or resumed in it")
