"""The route of the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from search_spaces.protocol import API_PREFIX
from service.api import access, account_views, headers
from service.api.callers import CurrentCaller, may
from service.api.dependencies import TEXT, CurrentContext
from service.api.error_handlers import error_responses
from service.api.integers import Integer
from service.contract.errors import NotFoundError
from service.contract.identity import AuditPage
from service.identity import audit
from service.identity.permissions import Permission, teams_with
from service.store.accounts import TEAM_CHARACTERS

router = APIRouter(prefix=API_PREFIX, tags=["accounts"])


class AuditFilters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    team: str | None = Field(
        None, max_length=TEAM_CHARACTERS, pattern=TEXT, description="Only what was done to objects of this team."
    )
    object: str | None = Field(
        None,
        max_length=audit.OBJECT_CHARACTERS,
        pattern=TEXT,
        description="Only what was done to this object.",
        examples=["experiments/k3v9q2mz"],
    )
    limit: Integer = Field(50, ge=1, le=1000, description="Largest number of entries on the page.")
    after: Integer | None = Field(
        None, ge=1, lt=2**62, description="The `next_after` of the page before: only older entries."
    )


@router.get(
    "/audit",
    summary="List what was changed",
    dependencies=[may(Permission.AUDIT_READ)],
    responses={200: headers.success("One page of entries."), **error_responses(NotFoundError)},
)
def list_audit(context: CurrentContext, caller: CurrentCaller, query: Annotated[AuditFilters, Query()]) -> AuditPage:
    """Lists the requests that changed something or were refused, newest first: those about the teams that you manage;
    for administrators, all. An entry stays when its object is deleted, and is never changed."""
    visible = teams_with(caller.principal, Permission.AUDIT_READ)
    with context.database.read() as session:
        if query.team is not None:
            visible = frozenset({access.find_team(session, caller, query.team).id})
        found = audit.page(session, visible, query.object, query.after, query.limit + 1)
    page = found[: query.limit]
    return AuditPage(
        items=[account_views.audit_entry(row) for row in page],
        next_after=page[-1].id if len(found) > query.limit else None,
    )
