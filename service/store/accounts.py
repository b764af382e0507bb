"""Accounts: the tables of people, teams, tokens and the audit log. It must not know rules: those are in
`service.identity`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Integer, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.store.base import Base

#: As long as the name of a workspace in MLflow, which a team's id may become.
TEAM_CHARACTERS = 63
LOGIN_CHARACTERS = 64
NAME_CHARACTERS, EMAIL_CHARACTERS = 128, 254
#: Of what an OpenID provider calls a person: OpenID Connect Core 1.0, section 2.
SUBJECT_CHARACTERS = 255


class Team(Base):
    """A team. Its id is its short name, which never changes: people type it, and experiments refer to it.

    `storage_limit_bytes`: from so many on, nothing new is accepted; null is no limit.
    """

    __tablename__ = "teams"

    id: Mapped[str] = mapped_column(String(TEAM_CHARACTERS), primary_key=True)
    name: Mapped[str] = mapped_column(String(NAME_CHARACTERS), default="")
    created_at: Mapped[datetime]
    archived_at: Mapped[datetime | None]
    storage_limit_bytes: Mapped[int | None] = mapped_column(BigInteger)


class User(Base):
    """A person. Nobody is ever deleted, so that experiments and the audit log keep their meaning."""

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("oidc_issuer", "oidc_subject"),)

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    login: Mapped[str] = mapped_column(String(LOGIN_CHARACTERS), unique=True)
    name: Mapped[str] = mapped_column(String(NAME_CHARACTERS), default="")
    email: Mapped[str] = mapped_column(String(EMAIL_CHARACTERS), default="")
    oidc_issuer: Mapped[str | None] = mapped_column(String(512))
    oidc_subject: Mapped[str | None] = mapped_column(String(SUBJECT_CHARACTERS))
    password_hash: Mapped[str | None] = mapped_column(String(255))
    admin: Mapped[bool] = mapped_column(default=False)
    disabled_at: Mapped[datetime | None]
    created_at: Mapped[datetime]


class Member(Base):
    """A person in a team, with a role."""

    __tablename__ = "members"

    team_id: Mapped[str] = mapped_column(ForeignKey("teams.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(String(16))


class Token(Base):
    """A token of a person or of a program. Only its digest is stored.

    `user_id` is the person whom it stands for; of a service token, who created it. `team_id` and `role` are those of a
    service token; of a person's token, what it is restricted to, if it is. `made_by` is the id of the token with which
    it was made; null if it comes from signing in, and of tokens that earlier versions made.
    """

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"), index=True)
    team_id: Mapped[str | None] = mapped_column(ForeignKey("teams.id"), index=True)
    role: Mapped[str | None] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(NAME_CHARACTERS), default="")
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]
    made_by: Mapped[str | None] = mapped_column(String(16))


class UsedIdToken(Base):
    """An ID token of the OpenID provider that was exchanged, by the digest of what is signed in it."""

    __tablename__ = "used_id_tokens"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    used_at: Mapped[datetime]


class AuditRow(Base):
    """One request that changed something or was refused. Rows are never changed: a trigger refuses it.

    It refers to nothing, so that it survives what it describes.
    """

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer(), "sqlite"), primary_key=True)
    at: Mapped[datetime]
    principal_kind: Mapped[str] = mapped_column(String(16))
    principal_id: Mapped[str] = mapped_column(String(16))
    principal: Mapped[str] = mapped_column(String(128))
    token_id: Mapped[str | None] = mapped_column(String(16))
    address: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(64))
    action: Mapped[str] = mapped_column(String(64))
    team_id: Mapped[str | None] = mapped_column(String(TEAM_CHARACTERS), index=True)
    object: Mapped[str] = mapped_column(String(128), index=True)
    outcome: Mapped[str] = mapped_column(String(16))
    change: Mapped[dict[str, Any] | None]
