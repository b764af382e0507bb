"""The route of usage: what was used in a month."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AfterValidator, Field, WithJsonSchema

from search_spaces.protocol import API_PREFIX, sanitize_text
from service.api import access, headers, pagination
from service.api.callers import CurrentCaller, may
from service.api.dependencies import TEXT, CurrentContext
from service.api.error_handlers import error_responses
from service.api.pagination import Paging
from service.contract.errors import NotFoundError, ValidationFailedError
from service.contract.usage import MONTH, UsagePage
from service.contract.usage_by import UsageBy
from service.domain import accounting
from service.domain.accounting import Month
from service.identity.permissions import Permission, teams_with
from service.store.accounts import TEAM_CHARACTERS

router = APIRouter(prefix=API_PREFIX, tags=["accounts"])


def _check_month(text: str) -> str:
    if not re.fullmatch(MONTH, text):
        raise ValueError("must be a year and a month, such as 2026-11")
    return text


MonthText = Annotated[str, AfterValidator(_check_month), WithJsonSchema({"type": "string", "pattern": MONTH})]


class UsageQuery(Paging):
    month: MonthText | None = Field(
        None, description="The month, in UTC; by default the current one.", examples=["2026-11"]
    )
    by: UsageBy = Field(UsageBy.TEAM, description="What is summed up in each team.")
    team: str | None = Field(None, max_length=TEAM_CHARACTERS, pattern=TEXT, description="Only this team.")


@router.get(
    "/usage",
    summary="Get what was used",
    dependencies=[may(Permission.USAGE_READ)],
    responses={200: headers.success("One page of sums."), **error_responses(NotFoundError, ValidationFailedError)},
)
def show_usage(context: CurrentContext, caller: CurrentCaller, query: Annotated[UsageQuery, Query()]) -> UsagePage:
    """Returns the slot, GPU and CPU hours of your teams in a month, also of experiments that were deleted; for
    administrators, of all teams.

    The service counts them itself: from the moment when a slot is given until it is taken back, or until the trial in
    it has ended its epoch.
    """
    month = Month.of(datetime.now(UTC)) if query.month is None else Month.parse(query.month)
    after = ("", "") if query.cursor is None else pagination.decode(query.cursor, str, str)
    team, key = (sanitize_text(one) for one in after)  # anybody may send any cursor
    visible = teams_with(caller.principal, Permission.USAGE_READ)
    with context.database.read() as session:
        if query.team is not None:
            visible = frozenset({access.find_team(session, caller, query.team).id})
        found = accounting.sums(session, month, query.by, visible, (team, key), query.limit + 1)
    page = found[: query.limit]
    return UsagePage(
        month=str(month),
        by=query.by,
        items=[entry for _, entry in page],
        next_cursor=pagination.encode(list(page[-1][0])) if len(found) > query.limit else None,
    )
