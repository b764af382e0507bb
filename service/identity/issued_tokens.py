"""Issued tokens: the tokens of people and programs in the database: made, listed, revoked, and recognized.

Owns what a token is worth at the moment of a request: a role is never more than its owner has now, and what was revoked
or has expired is worth nothing at once. It must not know HTTP.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from search_spaces.problems import Problem, shorten
from service.contract.errors import NotFoundError
from service.identity import tokens
from service.identity.principals import Principal, PrincipalKind, Role, TokenInUse
from service.identity.tokens import TokenKind
from service.store.accounts import Member, Team, Token, User

#: The last use is written at most this often: each write makes others wait.
USE_RECORDED_EVERY = timedelta(minutes=1)


@dataclass(frozen=True)
class NewToken:
    """What a token is to be. `team` and `role` are those of a service token, or what a person's is restricted to.
    `made_by` is the id of the token with which it is made."""

    kind: TokenKind
    name: str
    lifetime: timedelta
    user_id: str | None
    team: str | None = None
    role: Role | None = None
    made_by: str | None = None


def issue(session: Session, new: NewToken, now: datetime) -> tuple[Token, str]:
    """The row, and the token itself, which nothing stores."""
    text = tokens.make(new.kind)
    row = Token(
        id=tokens.new_id(),
        kind=new.kind,
        user_id=new.user_id,
        team_id=new.team,
        role=new.role,
        name=new.name,
        sha256=tokens.digest(text),
        created_at=now,
        expires_at=now + new.lifetime,
        made_by=new.made_by,
    )
    session.add(row)
    session.flush()
    return row, text


def of_user(session: Session, user_id: str) -> list[Token]:
    """A person's own tokens, newest first."""
    query = select(Token).where(Token.user_id == user_id, Token.kind == TokenKind.PERSON)
    return list(session.scalars(query.order_by(Token.created_at.desc(), Token.id)))


def of_team(session: Session, team: str) -> list[Token]:
    """A team's service tokens, newest first."""
    query = select(Token).where(Token.team_id == team, Token.kind == TokenKind.SERVICE)
    return list(session.scalars(query.order_by(Token.created_at.desc(), Token.id)))


def find(
    session: Session, token_id: str, user_id: str | None, own: str | None, managed: Collection[str] | None
) -> Token:
    """A token that a caller may revoke, locked: a person's own, the one in use (`own`), or a service token of a team in
    `managed` (None: any token). Raises NotFoundError."""
    query = select(Token).where(Token.id == token_id[:32].replace("\0", ""))
    if managed is not None:
        mine = Token.user_id == user_id if user_id is not None else Token.id == own
        query = query.where(
            or_(
                (Token.kind == TokenKind.PERSON) & mine,
                Token.id == own,
                (Token.kind == TokenKind.SERVICE) & Token.team_id.in_(managed),
            )
        )
    row = session.scalar(query.with_for_update())
    if row is None:
        shown = shorten(token_id)
        raise NotFoundError(f"there is no token {shown!r}", [Problem("token_id", "must be the id of a token", shown)])
    return row


def revoke(row: Token, now: datetime) -> bool:
    """Whether the token was valid until now."""
    was_valid = row.revoked_at is None
    row.revoked_at = row.revoked_at or now
    return was_valid


@dataclass(frozen=True)
class Recognized:
    """Whom a token stands for, and whether its use must be recorded."""

    principal: Principal
    use_is_due: bool


def recognize(connection: Connection, text: str, now: datetime) -> Recognized | None:
    """Whom a token stands for now; None for one that is not known, revoked, expired, or of a disabled person.

    One query, which finds the token by the index of its digest.
    """
    return _recognize(connection, _BY_DIGEST, tokens.digest(text), now) if tokens.is_well_formed(text) else None


def recognize_id(session: Session, token_id: str, now: datetime) -> Recognized | None:
    """The same for a token that was recognized before."""
    return _recognize(session.connection(), _BY_ID, token_id, now)


def _lookup(column: InstrumentedAttribute[str]) -> Select[*tuple[Any, ...]]:
    """A row for each team of whom a token stands for. Built once: that takes as long as the query itself. Times of
    which only matters whether there is one stay in the database: to read them takes longer than the rest of a row."""
    columns = (
        *(Token.id, Token.name, Token.kind, Token.team_id, Token.role, Token.made_by),
        *(Token.expires_at, Token.revoked_at.is_not(None).label("is_revoked"), Token.last_used_at),
        *(User.id.label("user_id"), User.login, User.admin, User.disabled_at.is_not(None).label("is_disabled")),
        *(Member.role.label("member_role"), Team.id.label("team"), Team.archived_at.is_not(None).label("is_archived")),
    )
    return (
        select(*columns)
        .outerjoin(User, User.id == Token.user_id)
        .outerjoin(Member, (Member.user_id == Token.user_id) & (Token.kind == TokenKind.PERSON))
        .outerjoin(Team, or_(Team.id == Member.team_id, (Token.kind == TokenKind.SERVICE) & (Team.id == Token.team_id)))
        .where(column == bindparam("value"))
    )


_BY_DIGEST, _BY_ID = _lookup(Token.sha256), _lookup(Token.id)


def _recognize(connection: Connection, query: Select[*tuple[Any, ...]], value: str, now: datetime) -> Recognized | None:
    rows = connection.execute(query, {"value": value}).all()  # half the time of the ORM
    if not rows:
        return None
    token = user = rows[0]
    if token.is_revoked or token.expires_at <= now:
        return None
    roles = {row.team: _role(row) for row in rows if row.team is not None}
    archived = frozenset(row.team for row in rows if row.is_archived)
    due = token.last_used_at is None or not timedelta(0) <= now - token.last_used_at < USE_RECORDED_EVERY
    in_use = TokenInUse(token.id, token.name, token.expires_at, token.made_by is None)
    if token.kind == TokenKind.SERVICE:
        login = f"token {token.name or token.id} of {token.team_id}"
        service = Principal(PrincipalKind.SERVICE, token.id, login, roles=roles, token=in_use, archived=archived)
        return Recognized(service, due)
    if user.user_id is None or user.is_disabled:
        return None
    restricted = token.team_id is not None or token.role is not None
    if token.team_id is not None:
        roles = {team: role for team, role in roles.items() if team == token.team_id}
    admin = user.admin and not restricted
    kind = PrincipalKind.PERSON
    person = Principal(kind, user.user_id, user.login, user.user_id, admin, roles, in_use, restricted, archived)
    return Recognized(person, due)


def record_use(session: Session, token_id: str, now: datetime) -> None:
    """Write the last use, unless another request did so meanwhile."""
    recent = (Token.last_used_at > now - USE_RECORDED_EVERY) & (Token.last_used_at <= now)
    session.execute(
        update(Token).where(Token.id == token_id, or_(Token.last_used_at.is_(None), ~recent)).values(last_used_at=now)
    )


def _role(row: Row[*tuple[Any, ...]]) -> Role:
    """The role in a team now: what the member has, at most what the token was made for; who is in an archived team can
    only read."""
    own = Role(row.member_role) if row.member_role is not None else Role(str(row.role))
    own = own if row.role is None else own.at_most(Role(row.role))
    return Role.VIEWER if row.is_archived else own
