"""Routes of tokens: one's own, and those of a team's programs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from search_spaces.problems import Problem, SpecError
from search_spaces.protocol import API_PREFIX
from service.api import access, account_views, changes, headers
from service.api.account_fields import Name, TokenPath
from service.api.callers import CurrentCaller, may
from service.api.dependencies import TEXT, CurrentContext
from service.api.error_handlers import error_responses
from service.contract.errors import ConflictError, NotFoundError
from service.contract.identity import CreatedToken, Role, TokenDays, TokenKind, TokenList
from service.identity import audit, issued_tokens, principals, tokens
from service.identity.issued_tokens import NewToken
from service.identity.permissions import Permission, teams_with
from service.identity.principals import Principal, PrincipalKind
from service.store.accounts import TEAM_CHARACTERS

router = APIRouter(prefix=f"{API_PREFIX}/tokens", tags=["accounts"])

DEFAULT_DAYS = 90
#: A program neither manages people nor makes further tokens.
SERVICE_ROLES = (principals.Role.VIEWER, principals.Role.MEMBER)


class TokenFilters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    team: str | None = Field(
        None, max_length=TEAM_CHARACTERS, pattern=TEXT, description="Service tokens of this team instead of your own."
    )


class TokenRequest(BaseModel):
    """A token to be made."""

    model_config = ConfigDict(extra="forbid")

    kind: TokenKind = Field("person", description="Kind: `person` acts as you, `service` as a program of one team.")
    name: Name = Field("", description="What it is for.", examples=["nightly searches"])
    expires_days: TokenDays = Field(DEFAULT_DAYS, description="Days after which it stops working.")
    team: str | None = Field(
        None,
        max_length=TEAM_CHARACTERS,
        pattern=TEXT,
        description="Team of a service token; of a person's token, the only team that it is for.",
    )
    role: Role | None = Field(
        None,
        description="Role of a service token, `viewer` or `member`; of a person's token, the most that it may do. A "
        "token with a team or a role makes and revokes no other tokens of its owner.",
    )


@router.get(
    "",
    summary="List tokens",
    dependencies=[may(Permission.ACCOUNT_USE)],
    responses={200: headers.success("Tokens, without their text."), **error_responses(NotFoundError)},
)
def list_tokens(context: CurrentContext, caller: CurrentCaller, query: Annotated[TokenFilters, Query()]) -> TokenList:
    """Lists your own tokens, or with `team` the service tokens of a team that you manage; newest first."""
    with context.database.read() as session:
        if query.team is None:
            rows = issued_tokens.of_user(session, caller.principal.user_id or "")
        else:
            team = access.find_team(session, caller.with_permission(Permission.TOKEN_MANAGE), query.team)
            rows = issued_tokens.of_team(session, team.id)
    return TokenList(items=[account_views.token(row) for row in rows])


@router.post(
    "",
    summary="Create a token",
    dependencies=[may(Permission.ACCOUNT_USE)],
    status_code=201,
    responses={
        201: headers.success("The token, which is shown this once."),
        **error_responses(NotFoundError, ConflictError),
    },
)
def create_token(context: CurrentContext, caller: CurrentCaller, wanted: TokenRequest) -> CreatedToken:
    """Creates a token of your own, or, for who manages a team, one for a program of that team.

    The service stores only a digest of it. A service token belongs to its team: it keeps working when the person who
    made it leaves. A token that was made here makes none that outlives it; only those that you get by signing in do.
    Answers 403 for another token of your own where the one in use is restricted to a team or a role.
    """
    principal, now = caller.principal, datetime.now(UTC)
    _check(principal, wanted, now)
    if wanted.kind == "person":
        caller.check(Permission.ACCOUNT_CHANGE)
    role = None if wanted.role is None else principals.Role(wanted.role)
    with changes.transaction(context, caller, of_rights=True) as session:
        if wanted.team is not None:
            needs = Permission.TOKEN_MANAGE if wanted.kind == "service" else Permission.TEAM_READ
            access.find_team(session, caller.with_permission(needs), wanted.team)
        new = NewToken(
            tokens.TokenKind(wanted.kind),
            wanted.name,
            timedelta(days=wanted.expires_days),
            principal.user_id,
            wanted.team,
            role,
            None if principal.token is None else principal.token.id,
        )
        row, text = issued_tokens.issue(session, new, now)
        shown = account_views.token(row)
        caller.act.object, caller.act.team = f"tokens/{row.id}", wanted.team
        fields = {"kind", "name", "team", "role", "expires_at"}
        caller.act.change = {"after": shown.model_dump(mode="json", include=fields)}
        audit.record(session, caller.act, now)
    return CreatedToken(**shown.model_dump(), token=text)


@router.delete(
    "/{token_id}",
    summary="Revoke a token",
    dependencies=[may(Permission.ACCOUNT_USE)],
    status_code=204,
    responses={204: headers.success("The token is revoked."), **error_responses(NotFoundError)},
)
def revoke_token(context: CurrentContext, caller: CurrentCaller, token_id: TokenPath) -> Response:
    """Revokes a token of your own, a service token of a team that you manage, or, for administrators, any token. It
    stops working at once. Repeating the request changes nothing. Answers 403 for another token of your own where the
    one in use is restricted to a team or a role."""
    principal, now = caller.principal, datetime.now(UTC)
    managed = teams_with(principal, Permission.TOKEN_MANAGE)
    own = None if principal.token is None else principal.token.id
    with changes.transaction(context, caller, of_rights=True) as session:
        row = issued_tokens.find(session, token_id, principal.user_id, own, managed)
        caller.act.team = row.team_id
        if row.kind == tokens.TokenKind.PERSON and row.id != own:
            caller.check(Permission.ACCOUNT_CHANGE)
        if issued_tokens.revoke(row, now):
            caller.act.change = {"after": {"revoked": True}}
            audit.record(session, caller.act, now)
    return Response(status_code=204)


def _check(principal: Principal, wanted: TokenRequest, now: datetime) -> None:
    """Raises SpecError for a token that cannot be, ConflictError for a caller who has none."""
    if not principal.has_account:
        raise ConflictError("this service has no accounts (RUNG_AUTH=accounts), so that there are no tokens to make")
    problems, token = [], principal.token
    if token is not None and token.outlived_by(now + timedelta(days=wanted.expires_days)):
        rule = (
            f"must end before the token in use, made with another one, which expires {token.expires_at:%F %R} UTC; "
            "only tokens that you get by signing in make longer ones"
        )
        problems.append(Problem("expires_days", rule, wanted.expires_days))
    if wanted.kind == "service":
        if wanted.team is None:
            problems.append(Problem("team", "must be given for a service token"))
        if wanted.role not in SERVICE_ROLES:
            rule = f"must be {' or '.join(SERVICE_ROLES)} for a service token"
            problems.append(Problem("role", rule, wanted.role))
    elif principal.kind is PrincipalKind.SERVICE:
        problems.append(Problem("kind", "must be service: a program has no tokens of a person", wanted.kind))
    if problems:
        raise SpecError(problems)
