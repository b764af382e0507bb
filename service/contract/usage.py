"""Usage: the bodies of responses about what was used, and of budgets."""

from __future__ import annotations

from pydantic import BaseModel, Field

from service.contract.budgets import Action, BudgetState
from service.contract.schemas import NEXT_CURSOR
from service.contract.usage_by import UsageBy

#: A month, as people and requests write it.
MONTH = r"^2[0-9]{3}-(0[1-9]|1[0-2])$"


class UsageEntry(BaseModel):
    """What was used in a month by one team, or by a part of it."""

    team: str = Field(description="Short name of the team.", examples=["vision"])
    person: str | None = Field(
        None, description="By person and experiment: login of who submitted it; null for programs and without accounts."
    )
    experiment_id: str | None = Field(None, description="By experiment: its identifier.")
    name: str | None = Field(None, description="By experiment: its name; null after it was deleted.")
    pool: str | None = Field(None, description="By pool: its name.")
    slot_hours: float = Field(description="Hours for which slots were held, summed over all slots.")
    gpu_hours: float = Field(description="The same, times the GPUs of a slot.")
    cpu_hours: float = Field(description="The same, times the CPUs of a slot.")


class UsagePage(BaseModel):
    """One page of what was used in a month, by team."""

    month: str = Field(description="The month, in UTC.", examples=["2026-11"])
    by: UsageBy = Field(description="What each item is the sum of.")
    items: list[UsageEntry] = Field(description="The sums, by team.")
    next_cursor: str | None = Field(description=NEXT_CURSOR)


class BudgetView(BaseModel):
    """What a team may use in each month of the calendar, and what it has used in this one."""

    team: str = Field(description="Short name of the team.", examples=["vision"])
    month: str = Field(description="The current month, in UTC.", examples=["2026-11"])
    gpu_hours: float | None = Field(description="GPU hours that the team may use in a month; null is no limit.")
    slot_hours: float | None = Field(description="Slot hours that the team may use in a month; null is no limit.")
    action: Action = Field(
        description="What happens when it is spent: `hold` gives the team no slots until the month ends or the budget "
        "is raised; `warn` only says so."
    )
    used_gpu_hours: float = Field(description="GPU hours used in this month.")
    used_slot_hours: float = Field(description="Slot hours used in this month.")
    state: BudgetState = Field(description="How far the team is: `warning` from 80 % on, `spent` from 100 % on.")


class BudgetList(BaseModel):
    """Budgets, by team. A team without one may use what it gets."""

    items: list[BudgetView] = Field(description="The budgets.")
