"""Routes of the caller's own account: how to sign in, who am I, sign out."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from search_spaces.problems import Problem
from search_spaces.protocol import API_PREFIX, DEFAULT_TEAM
from service.api import account_views, changes, headers
from service.api.account_fields import Secret
from service.api.callers import Caller, CurrentCaller, may, public
from service.api.dependencies import CurrentContext
from service.api.error_handlers import error_responses
from service.contract.errors import ConflictError, TooManyRequestsError, ValidationFailedError
from service.contract.identity import AuthMethods, Membership, MlflowAccess, OidcMethod, TokenInUse, WhoAmI
from service.identity import audit, issued_tokens, mlflow_users, principals, sign_in, teams, users
from service.identity.permissions import Permission
from service.identity.principals import PrincipalKind, Role

router = APIRouter(prefix=f"{API_PREFIX}/auth", tags=["accounts"])


class PasswordRequest(BaseModel):
    """A password to replace one's own."""

    model_config = ConfigDict(extra="forbid")

    old: Secret = Field("", description="The present password; empty if there is none yet.")
    new: Secret = Field(description="The new password.")


@router.get(
    "",
    summary="Get how to sign in",
    dependencies=[public()],
    responses={200: headers.success("How this service knows its callers.")},
)
def show_auth_methods(context: CurrentContext) -> AuthMethods:
    """Returns whether the service needs a token, and the ways to get one."""
    settings = context.settings
    oidc = None
    if settings.oidc_issuer:
        oidc = OidcMethod(
            issuer=settings.oidc_issuer,
            client_id=settings.oidc_client_id,
            scopes=settings.oidc_scopes.split(),
        )
    return AuthMethods(mode=settings.auth.value, password=settings.passwords, oidc=oidc)


@router.get(
    "/whoami",
    summary="Get who you are",
    dependencies=[may(Permission.ACCOUNT_USE)],
    responses={200: headers.success("The caller, as the service sees it.")},
)
def show_caller(context: CurrentContext, caller: CurrentCaller) -> WhoAmI:
    """Returns the person or program that the token stands for, its teams, and until when the token is valid."""
    principal = caller.principal
    person = None
    if principal.kind is PrincipalKind.PERSON:
        with context.database.read() as session:
            person = account_views.user(users.find(session, principal.login))
    roles = principal.roles or ({} if principal.has_account else {DEFAULT_TEAM: Role.MANAGER})
    token = principal.token
    return WhoAmI(
        user=person,
        kind=principal.kind.value,
        admin=principal.admin,
        teams=[Membership(team=team, role=role.value) for team, role in sorted(roles.items())],
        token=None if token is None else TokenInUse(id=token.id, name=token.name, expires_at=token.expires_at),
    )


@router.get(
    "/mlflow",
    summary="Get what you may do in MLflow",
    dependencies=[may(Permission.ACCOUNT_USE)],
    responses={200: headers.success("The workspaces of the caller's teams.")},
)
def show_mlflow_access(context: CurrentContext, caller: CurrentCaller) -> MlflowAccess:
    """Returns the workspaces of MLflow that the caller may use. MLflow's server asks this with the token of each of its
    requests, and remembers the answer for up to 30 seconds."""
    principal, every = caller.principal, []
    if principal.admin:
        with context.database.read() as session:
            every = [team.id for team in teams.list_all(session, None)]
    return MlflowAccess(workspaces=mlflow_users.users_of(principal, every))


@router.post(
    "/logout",
    summary="Revoke the token that is used",
    dependencies=[may(Permission.ACCOUNT_USE)],
    status_code=204,
    responses={204: headers.success("The token is revoked."), **error_responses(ConflictError)},
)
def log_out(context: CurrentContext, caller: CurrentCaller) -> Response:
    """Revokes the token of this request. Answers 409 for a service without accounts, whose token is a file."""
    token = _token_in_use(caller)
    now = datetime.now(UTC)
    with changes.transaction(context, caller, of_rights=True) as session:
        row = issued_tokens.find(session, token.id, None, token.id, frozenset())
        issued_tokens.revoke(row, now)
        caller.act.object = f"tokens/{row.id}"
        caller.act.change = {"after": {"revoked": True}}
        audit.record(session, caller.act, now)
    return Response(status_code=204)


@router.post(
    "/password",
    summary="Change your password",
    dependencies=[may(Permission.ACCOUNT_CHANGE)],
    status_code=204,
    responses={
        204: headers.success("The password is changed."),
        **error_responses(ConflictError, TooManyRequestsError),
    },
)
def change_password(context: CurrentContext, caller: CurrentCaller, wanted: PasswordRequest) -> Response:
    """Replaces your password. Tokens that you have keep working. Answers 409 for programs, for people without a
    password, and without accounts, 403 for a token that is restricted to a team or a role."""
    principal = caller.principal
    if principal.kind is not PrincipalKind.PERSON:
        raise ConflictError("only people have passwords")
    caller.act.object = f"users/{principal.login}"
    with context.database.read() as session:
        changes.confirm(context, session, caller)
        user = users.find(session, principal.login)
    if not context.sign_in.confirm(caller.act.address, user, wanted.old):
        problem = Problem("old", "must be the present password")
        raise ValidationFailedError(str(problem), [problem])
    hashed, now = sign_in.new_password(wanted.new, principal.login, "new"), datetime.now(UTC)
    with changes.transaction(context, caller, of_rights=True) as session:
        users.change(session, users.find(session, principal.login, lock=True), {"password_hash": hashed}, now)
        caller.act.change = {"after": {"password": "changed"}}
        audit.record(session, caller.act, now)
    return Response(status_code=204)


def _token_in_use(caller: Caller) -> principals.TokenInUse:
    if caller.principal.token is None:
        raise ConflictError("this service has no accounts, so that there is no token to revoke")
    return caller.principal.token
