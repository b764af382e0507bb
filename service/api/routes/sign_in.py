"""Routes of signing in: a password or an ID token for a token of Rung."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from search_spaces.protocol import API_PREFIX
from service.api import account_views, headers, request_log
from service.api.account_fields import Name, Secret
from service.api.callers import public
from service.api.dependencies import TEXT, CurrentContext
from service.api.error_handlers import error_responses
from service.context import AppContext
from service.contract.errors import (
    ConflictError,
    ForbiddenError,
    TooManyRequestsError,
    UnauthorizedError,
)
from service.contract.identity import SignedIn, TokenDays
from service.identity import audit, issued_tokens, sign_in, users
from service.identity.audit import Act, Outcome
from service.identity.issued_tokens import NewToken
from service.identity.tokens import TokenKind
from service.identity.users import NewUser

router = APIRouter(prefix=f"{API_PREFIX}/auth", tags=["accounts"])

DEFAULT_DAYS = 30
UNKNOWN_LOGIN = "unknown login"  # in the audit log, which keeps no login that is nobody's: it may be a password
REFUSALS = error_responses(UnauthorizedError, ForbiddenError, ConflictError, TooManyRequestsError)


class LoginRequest(BaseModel):
    """A login, its password, and the token that is wanted."""

    model_config = ConfigDict(extra="forbid")

    login: Name = Field(description="Login of the person.", examples=["ada"])
    password: Secret = Field(description="Password of the person.")
    name: Name = Field("", description="What the token is for, such as the name of the machine.")
    expires_days: TokenDays = Field(DEFAULT_DAYS, description="Days after which the token stops working.")


class ExchangeRequest(BaseModel):
    """An ID token of the OpenID provider, and the token that is wanted."""

    model_config = ConfigDict(extra="forbid")

    id_token: Secret = Field(description="ID token of the provider, as a JWT.")
    nonce: Annotated[str, Field(max_length=1000, pattern=TEXT)] | None = Field(
        None, description="The nonce that the sign-in began with, if it had one."
    )
    name: Name = Field("", description="What the token is for, such as the name of the machine.")
    expires_days: TokenDays = Field(DEFAULT_DAYS, description="Days after which the token stops working.")


@router.post(
    "/login",
    summary="Sign in with a password",
    dependencies=[public()],
    status_code=201,
    responses={201: headers.success("A token, which is shown this once."), **REFUSALS},
)
def log_in(context: CurrentContext, request: Request, wanted: LoginRequest) -> SignedIn:
    """Answers a login and its password with a token. Whether the login or the password is wrong is not said."""
    login = wanted.login.strip().lower()
    act = _act(request, "log_in", login)

    def check() -> str:
        return context.sign_in.check_password(context.database, act.address, login, wanted.password)

    return _sign_in(context, act, check, wanted.name, wanted.expires_days)


@router.post(
    "/exchange",
    summary="Sign in with an ID token",
    dependencies=[public()],
    status_code=201,
    responses={201: headers.success("A token, which is shown this once."), **REFUSALS},
)
def exchange_token(context: CurrentContext, request: Request, wanted: ExchangeRequest) -> SignedIn:
    """Answers an ID token of the OpenID provider with a token, once. Who signs in for the first time is added, in no
    team."""
    act = _act(request, "exchange_token", "")

    def check() -> NewUser:
        return context.sign_in.check_id_token(context.database, act.address, wanted.id_token, wanted.nonce)

    return _sign_in(context, act, check, wanted.name, wanted.expires_days)


def _act(request: Request, action: str, login: str) -> Act:
    address = request.client.host if request.client else ""
    return Act(action, "auth", address, request_log.request_id(request.scope), login=login)


def _sign_in(
    context: AppContext, act: Act, check: Callable[[], str | NewUser], name: str, expires_days: int
) -> SignedIn:
    """A new token for whom `check` finds. What is refused is recorded, except above the limits of attempts."""
    now = datetime.now(UTC)
    try:
        found = check()
        with context.database.write() as session:
            user = sign_in.admit(session, found, now)
            new = NewToken(TokenKind.PERSON, name, timedelta(days=expires_days), user.id)
            row, text = issued_tokens.issue(session, new, now)
            act.object, act.login = f"users/{user.login}", user.login
            act.change = {"after": {"token": row.id, "expires_at": row.expires_at.isoformat()}}
            audit.record(session, act, now)
    except UnauthorizedError as error:
        with context.database.write() as session:
            if users.find_by_login(session, act.login) is None:
                act.login = UNKNOWN_LOGIN
            audit.record(session, act, now, Outcome.REFUSED)
        error.headers[headers.AUTHENTICATE] = "Bearer"
        raise
    return SignedIn(token=text, id=row.id, name=row.name, expires_at=row.expires_at, user=account_views.user(user))
