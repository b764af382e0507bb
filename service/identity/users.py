"""Users: the people whom the service knows.

A login never changes and nobody is deleted: who leaves is disabled, and all their tokens stop to work. It must not know
HTTP, nor how passwords are hashed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from search_spaces.problems import Problem, SpecError, shorten
from service.contract.errors import ConflictError, NotFoundError
from service.identity import tokens
from service.store.accounts import LOGIN_CHARACTERS, User

LOGIN = re.compile(rf"[a-z0-9][a-z0-9._@+-]{{0,{LOGIN_CHARACTERS - 1}}}", re.ASCII)
LOGIN_RULE = f"must have at most {LOGIN_CHARACTERS} of the characters a-z, 0-9 and ._@+-, and begin with a-z or 0-9"


@dataclass(frozen=True)
class NewUser:
    """A person to be. `issuer` and `subject` name them at an OpenID provider."""

    login: str
    name: str = ""
    email: str = ""
    admin: bool = False
    password_hash: str | None = None
    issuer: str | None = None
    subject: str | None = None


def create(session: Session, new: NewUser, now: datetime) -> User:
    """Raises SpecError for a bad login, ConflictError for one that is taken."""
    if not LOGIN.fullmatch(new.login):
        raise SpecError([Problem("login", LOGIN_RULE, shorten(new.login))])
    taken = f"there is a user {new.login!r} already"
    if find_by_login(session, new.login) is not None:
        raise ConflictError(taken)
    user = User(
        id=tokens.new_id(),
        login=new.login,
        name=new.name,
        email=new.email,
        admin=new.admin,
        password_hash=new.password_hash,
        oidc_issuer=new.issuer,
        oidc_subject=new.subject,
        created_at=now,
    )
    try:
        with session.begin_nested():
            session.add(user)
    except IntegrityError:  # somebody else was faster: only PostgreSQL has two writers at the same time
        raise ConflictError(taken) from None
    return user


def find(session: Session, login: str, *, lock: bool = False) -> User:
    """The person with this login. With `lock`, the row is locked for the transaction, together with those of all
    administrators: two of them must not demote each other at the same moment. Raises NotFoundError."""
    user = _locked(session, login) if lock else find_by_login(session, login)
    if user is None:
        shown = shorten(login)
        raise NotFoundError(f"there is no user {shown!r}", [Problem("login", "must be the login of a user", shown)])
    return user


def find_by_login(session: Session, login: str) -> User | None:
    """The person with this login, if there is one."""
    return session.scalar(select(User).where(User.login == _stored(login)))


def find_by_identity(session: Session, issuer: str, subject: str) -> User | None:
    """The person whom an OpenID provider knows under this subject."""
    return session.scalar(select(User).where(User.oidc_issuer == issuer, User.oidc_subject == subject))


def of_identity(session: Session, new: NewUser, now: datetime) -> User:
    """The person of an identity, created at the first sign-in. A login that is taken gets a number: who has it may be
    somebody else, so that they are never joined."""
    known = find_by_identity(session, str(new.issuer), str(new.subject))
    if known is not None:
        return known
    base = re.sub(r"[^a-z0-9._@+-]", "-", new.login.lower()).lstrip("._@+-")[: LOGIN_CHARACTERS - 4] or "user"
    login, number = base, 1
    while find_by_login(session, login) is not None:
        number += 1
        login = f"{base}-{number}"
    named = NewUser(login, new.name, new.email, issuer=new.issuer, subject=new.subject)
    try:
        return create(session, named, now)
    except ConflictError:  # at the same moment: the same person signed in twice, or somebody else took the login
        return of_identity(session, new, now)


def list_all(session: Session) -> list[User]:
    """Everybody, by login."""
    return list(session.scalars(select(User).order_by(User.login)))


def change(session: Session, user: User, fields: Mapping[str, object], now: datetime) -> None:
    """Change `name`, `email`, `admin`, `disabled` or `password_hash`; what is absent stays.

    Who may stop to administer must be locked (`find`). Raises ConflictError if nobody would be left who administers the
    service.
    """
    had_admins = count_admins(session)
    for name in ("name", "email", "admin", "password_hash"):
        if name in fields:
            setattr(user, name, fields[name])
    if "disabled" in fields:
        user.disabled_at = (user.disabled_at or now) if fields["disabled"] else None
    session.flush()
    if had_admins and not count_admins(session):
        raise ConflictError(f"{user.login} is the only administrator: make somebody else one first")


def count_admins(session: Session) -> int:
    """How many people can administer the service."""
    query = select(func.count()).select_from(User).where(User.admin.is_(True), User.disabled_at.is_(None))
    return session.scalars(query).one()


def _locked(session: Session, login: str) -> User | None:
    """In the order of their ids, so that nobody waits for the other."""
    administers = User.admin.is_(True) & User.disabled_at.is_(None)
    query = select(User).where(or_(User.login == _stored(login), administers)).order_by(User.id).with_for_update()
    return next((user for user in session.scalars(query).all() if user.login == login), None)


def _stored(login: str) -> str:
    """What the database can compare."""
    return login[: LOGIN_CHARACTERS + 1].replace("\0", "")
