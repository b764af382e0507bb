"""Routes of budgets: what teams may use in a month."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from search_spaces.protocol import API_PREFIX
from service.api import access, changes, headers
from service.api.account_fields import TeamPath
from service.api.callers import CurrentCaller, may
from service.api.dependencies import CurrentContext
from service.api.error_handlers import error_responses
from service.contract.budgets import Action
from service.contract.errors import NotFoundError
from service.contract.usage import BudgetList, BudgetView
from service.domain import budgets
from service.domain.budgets import Standing, Terms
from service.identity import audit
from service.identity.permissions import Permission, teams_with
from service.store.accounting import MAX_HOURS

router = APIRouter(prefix=API_PREFIX, tags=["accounts"])

_RANGE: dict[str, Any] = {"minimum": 0, "maximum": MAX_HOURS}


class BudgetRequest(BaseModel):
    """A budget: GPU hours, slot hours, or both."""

    model_config = ConfigDict(extra="forbid")

    gpu_hours: FiniteFloat | None = Field(
        None, strict=True, description="GPU hours of a month; null is no limit.", json_schema_extra=_RANGE
    )
    slot_hours: FiniteFloat | None = Field(
        None, strict=True, description="Slot hours of a month; null is no limit.", json_schema_extra=_RANGE
    )
    action: Action = Field(Action.HOLD, description="What happens when it is spent.")


@router.get(
    "/budgets",
    summary="List budgets",
    dependencies=[may(Permission.USAGE_READ)],
    responses={200: headers.success("The budgets of your teams.")},
)
def list_budgets(context: CurrentContext, caller: CurrentCaller) -> BudgetList:
    """Lists the monthly budgets of your teams, and what is used of them; for administrators, of all teams."""
    visible = teams_with(caller.principal, Permission.USAGE_READ)
    with context.database.read() as session:
        found = budgets.standings(session, datetime.now(UTC), visible)
    return BudgetList(items=[_view(one) for one in found])


@router.put(
    "/teams/{team}/budget",
    summary="Set a team's budget",
    dependencies=[may(Permission.BUDGET_MANAGE)],
    responses={200: headers.success("The budget."), **error_responses(NotFoundError)},
)
def set_budget(context: CurrentContext, caller: CurrentCaller, team: TeamPath, wanted: BudgetRequest) -> BudgetView:
    """Sets what a team may use in each month of the calendar (UTC), from this one on. It replaces the budget before.

    What was used before counts. Experiments that waited for the budget continue in the next pass of the scheduler, if
    it is not spent any more.
    """
    now, terms = datetime.now(UTC), Terms(**wanted.model_dump())
    with changes.transaction(context, caller) as session:
        row = access.find_team(session, caller, team, lock=True)
        before = budgets.put(session, row, terms)
        caller.act.change = {"before": before and asdict(before), "after": asdict(terms)}
        audit.record(session, caller.act, now)
        session.flush()
        (standing,) = budgets.standings(session, now, [row.id])
    context.wake.set()
    return _view(standing)


@router.delete(
    "/teams/{team}/budget",
    summary="Remove a team's budget",
    dependencies=[may(Permission.BUDGET_MANAGE)],
    status_code=204,
    responses={204: headers.success("The team has no budget."), **error_responses(NotFoundError)},
)
def remove_budget(context: CurrentContext, caller: CurrentCaller, team: TeamPath) -> Response:
    """Lets a team use all that it gets. What it uses is still counted."""
    with changes.transaction(context, caller) as session:
        row = access.find_team(session, caller, team, lock=True)
        before = budgets.remove(session, row)
        caller.act.change = {"before": before and asdict(before), "after": None}
        audit.record(session, caller.act, datetime.now(UTC))
    context.wake.set()
    return Response(status_code=204)


def _view(standing: Standing) -> BudgetView:
    return BudgetView(
        team=standing.team,
        month=str(standing.month),
        **asdict(standing.terms),
        used_gpu_hours=standing.used_gpu_hours,
        used_slot_hours=standing.used_slot_hours,
        state=standing.state,
    )
