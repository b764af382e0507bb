"""Budgets: what a team may use in a month. It imports nothing heavy, because the command line needs it at once."""

from __future__ import annotations

from enum import StrEnum


class Action(StrEnum):
    """What happens when a budget is spent."""

    WARN = "warn"  # it is only reported
    HOLD = "hold"  # the team gets no slots until the month ends or the budget is raised


class BudgetState(StrEnum):
    """How far a team is."""

    OK = "ok"
    WARNING = "warning"  # most of it is spent
    SPENT = "spent"
