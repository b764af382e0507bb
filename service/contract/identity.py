"""Identity: the bodies of requests and responses about people, teams, tokens and the audit log.

They describe what is sent, not the tables behind it. It must not know how a person is recognized.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

#: What a caller of the API is. `open` is everybody, where the service asks for no token.
PrincipalKind = Literal["person", "service", "owner", "open"]
#: What a member of a team may do, from the least to the most.
Role = Literal["viewer", "member", "manager"]
TokenKind = Literal["person", "service"]
#: Tokens end after a year at the latest: a token that was forgotten does not work for ever.
MAX_TOKEN_DAYS = 365
TokenDays = Annotated[int, Field(ge=1, le=MAX_TOKEN_DAYS)]


class OidcMethod(BaseModel):
    """The OpenID provider that people sign in with."""

    issuer: str = Field(description="Issuer of the provider, from which its addresses follow (OpenID discovery).")
    client_id: str = Field(description="Identifier of Rung at the provider.")
    scopes: list[str] = Field(description="Scopes to ask the provider for.", examples=[["openid", "profile", "email"]])


class AuthMethods(BaseModel):
    """How people sign in to this service."""

    mode: Literal["open", "owner", "accounts"] = Field(
        description="How callers are known. `open` needs no token, `owner` has one token for its only user, `accounts` "
        "has people and teams."
    )
    password: bool = Field(description="Whether people can sign in with a login and a password.")
    oidc: OidcMethod | None = Field(None, description="The OpenID provider, if there is one.")


class UserView(BaseModel):
    """A person."""

    login: str = Field(description="Name that the person signs in with, unique in this service.", examples=["alice"])
    name: str = Field("", description="Name for others to read.")
    email: str = Field("", description="E-mail address; empty if it is not known.")
    admin: bool = Field(False, description="Whether the person administers the service.")
    disabled_at: datetime | None = Field(None, description="When the account was disabled.")
    created_at: datetime | None = Field(None, description="When the account was created.")


class UserList(BaseModel):
    """People, by login."""

    items: list[UserView] = Field(description="Everybody.")


class Membership(BaseModel):
    """A team of the caller, and the caller's role in it."""

    team: str = Field(description="Short name of the team.", examples=["vision"])
    role: Role = Field(description="What the caller may do in it.")


class TokenView(BaseModel):
    """A token, without the token itself."""

    id: str = Field(description="Identifier of the token.")
    name: str = Field("", description="What the token is for, in its owner's words.")
    kind: TokenKind = Field(
        "person", description="Kind: `person` acts as its owner, `service` as a program of one team."
    )
    team: str | None = Field(None, description="Team of a service token.")
    role: Role | None = Field(None, description="Role of a service token in its team.")
    created_at: datetime | None = Field(None, description="When it was created.")
    expires_at: datetime = Field(description="When it stops working.")
    last_used_at: datetime | None = Field(None, description="When it was last used, to the minute.")
    revoked_at: datetime | None = Field(None, description="When it was revoked.")


class TokenList(BaseModel):
    """Tokens, the newest first."""

    items: list[TokenView] = Field(description="The tokens.")


class CreatedToken(TokenView):
    """A new token. The service stores only its digest: it is shown once."""

    token: str = Field(description="The token itself.")


class SignedIn(BaseModel):
    """A token for a person who has signed in."""

    token: str = Field(description="The token itself, which is shown once.")
    id: str = Field(description="Identifier of the token.")
    name: str = Field("", description="What the token is for.")
    expires_at: datetime = Field(description="When it stops working.")
    user: UserView = Field(description="The person.")


class TokenInUse(BaseModel):
    """The token of this request."""

    id: str = Field(description="Identifier of the token.")
    name: str = Field("", description="What the token is for.")
    expires_at: datetime | None = Field(None, description="When it stops working; null if it does not expire.")


class WhoAmI(BaseModel):
    """Who sent this request, as the service sees it."""

    user: UserView | None = Field(None, description="The person; null for tokens of programs and without accounts.")
    kind: PrincipalKind = Field(description="What the caller is.")
    admin: bool = Field(False, description="Whether the caller administers the service.")
    teams: list[Membership] = Field(default_factory=list, description="Teams of the caller.")
    token: TokenInUse | None = Field(None, description="The token of this request; null without one.")


class MlflowAccess(BaseModel):
    """What the caller may do in MLflow, for MLflow's server, which asks with the token that it was given."""

    workspaces: dict[str, str] = Field(
        description="The workspaces of MLflow that the caller may use, each with the user of MLflow that the caller "
        "acts as there.",
        examples=[{"vision": "vision~member"}],
    )


class Member(BaseModel):
    """A member of a team."""

    login: str = Field(description="Login of the person.")
    name: str = Field("", description="Name of the person.")
    role: Role = Field(description="What the person may do in the team.")


class TeamStorage(BaseModel):
    """What the files of a team's experiments take, and what they may."""

    used_bytes: int = Field(description="Size of the files, in bytes, as they were measured last.")
    limit_bytes: int | None = Field(None, description="From this size on, nothing new is accepted; null is no limit.")


class TeamView(BaseModel):
    """A team."""

    team: str = Field(description="Short name, unique in this service.", examples=["vision"])
    name: str = Field("", description="Name for others to read.")
    created_at: datetime | None = Field(None, description="When it was created.")
    archived_at: datetime | None = Field(None, description="When it was archived: nothing new can be submitted to it.")
    members: list[Member] = Field(default_factory=list, description="Its members; empty in lists of teams.")
    storage: TeamStorage | None = Field(None, description="What its files take; null in lists of teams.")


class TeamList(BaseModel):
    """Teams, by short name."""

    items: list[TeamView] = Field(description="The teams.")


class AuditEntry(BaseModel):
    """One request that changed something, or that was refused."""

    id: int = Field(description="Number of the entry; later entries have higher numbers.")
    at: datetime = Field(description="When.")
    kind: str = Field(description="What the caller was: a kind of principal, or `nobody`.")
    principal: str | None = Field(None, description="Who: a login, or `token NAME of TEAM` for a service token.")
    token_id: str | None = Field(None, description="Token of the request.")
    address: str | None = Field(None, description="IP address that the request came from.")
    request_id: str | None = Field(None, description="Identifier of the request, as in the access log.")
    action: str = Field(description="What was asked for.", examples=["cancel_experiment"])
    team: str | None = Field(None, description="Team whose object it was.")
    object: str | None = Field(
        None, description="The object, as in the address of its route.", examples=["experiments/k3v9q2mz"]
    )
    outcome: str = Field(description="What came of it.", examples=["done", "refused"])
    change: dict[str, Any] | None = Field(None, description="The values before and after, as far as they changed.")


class AuditPage(BaseModel):
    """Entries of the audit log, the newest first."""

    items: list[AuditEntry] = Field(description="The entries.")
    next_after: int | None = Field(None, description="Pass it as `after` for older entries; null on the last page.")
