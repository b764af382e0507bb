"""Routes of people, for administrators."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from search_spaces.protocol import API_PREFIX
from service.api import account_views, changes, headers
from service.api.account_fields import Email, LoginPath, Name, Secret
from service.api.callers import CurrentCaller, may
from service.api.dependencies import CurrentContext
from service.api.error_handlers import error_responses
from service.contract.errors import ConflictError, NotFoundError
from service.contract.identity import UserList, UserView
from service.identity import audit, sign_in, users
from service.identity.permissions import Permission
from service.identity.users import NewUser

router = APIRouter(prefix=f"{API_PREFIX}/users", tags=["accounts"])


class UserRequest(BaseModel):
    """A person to be added."""

    model_config = ConfigDict(extra="forbid")

    login: Name = Field(description="Name to sign in with, which never changes.", examples=["ada"])
    name: Name = Field("", description="Name for others to read.")
    email: Email = Field("", description="E-mail address.")
    admin: bool = Field(False, description="Whether the person administers the service.")
    password: Secret | None = Field(None, description="Password to sign in with, if people have passwords here.")


class UserChange(BaseModel):
    """What to change of a person; what is absent stays."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = Field(None, description="Name for others to read.")
    email: Email | None = Field(None, description="E-mail address.")
    admin: bool | None = Field(None, description="Whether the person administers the service.")
    disabled: bool | None = Field(None, description="Whether the person may not use the service; all tokens stop.")
    password: Secret | None = Field(None, description="The new password.")


@router.get(
    "",
    summary="List people",
    dependencies=[may(Permission.USER_MANAGE)],
    responses={200: headers.success("Everybody.")},
)
def list_users(context: CurrentContext) -> UserList:
    """Lists everybody, by login."""
    with context.database.read() as session:
        return UserList(items=[account_views.user(row) for row in users.list_all(session)])


@router.post(
    "",
    summary="Add a person",
    dependencies=[may(Permission.USER_MANAGE)],
    status_code=201,
    responses={201: headers.success("The person."), **error_responses(ConflictError)},
)
def create_user(context: CurrentContext, caller: CurrentCaller, wanted: UserRequest) -> UserView:
    """Adds a person, who is in no team yet."""
    now = datetime.now(UTC)
    hashed = None if wanted.password is None else sign_in.new_password(wanted.password, wanted.login)
    with changes.transaction(context, caller, of_rights=True) as session:
        row = users.create(session, NewUser(wanted.login, wanted.name, wanted.email, wanted.admin, hashed), now)
        caller.act.object = f"users/{row.login}"
        caller.act.change = {"after": wanted.model_dump(include={"name", "email", "admin"})}
        audit.record(session, caller.act, now)
    return account_views.user(row)


@router.patch(
    "/{login}",
    summary="Change a person",
    dependencies=[may(Permission.USER_MANAGE)],
    responses={200: headers.success("The person."), **error_responses(NotFoundError, ConflictError)},
)
def change_user(context: CurrentContext, caller: CurrentCaller, login: LoginPath, wanted: UserChange) -> UserView:
    """Changes, disables or enables a person, or sets a password. People change their own with `/auth/password`.

    Who is disabled can do nothing from the next request on. Answers 409 if nobody would be left who administers the
    service.
    """
    now = datetime.now(UTC)
    given = wanted.model_dump(exclude_none=True, exclude={"password"})
    hashed = None if wanted.password is None else sign_in.new_password(wanted.password, login)
    with changes.transaction(context, caller, of_rights=True) as session:
        row = users.find(session, login, lock=True)
        before = {**account_views.user(row).model_dump(), "disabled": row.disabled_at is not None}
        users.change(session, row, given if hashed is None else {**given, "password_hash": hashed}, now)
        after = {name: value for name, value in given.items() if value != before[name]}
        caller.act.change = {"before": {name: before[name] for name in after}, "after": after}
        if hashed is not None:
            caller.act.change["after"]["password"] = "changed"
        audit.record(session, caller.act, now)
    return account_views.user(row)
