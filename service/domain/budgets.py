"""Budgets: what teams may use in each month of the calendar, and how far they are.

Owns when a budget warns and when it is spent. It must not know HTTP, nor what becomes of the experiments of a team that
has spent its budget.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from search_spaces.phrases import rounded
from search_spaces.problems import Problem, SpecError
from service.contract.budgets import Action, BudgetState
from service.domain import notifications
from service.domain.accounting import HOUR_S, Month
from service.store.accounting import MAX_HOURS, Budget, UsageOfMonth
from service.store.accounts import Team

log = logging.getLogger(__name__)

#: From this part of a budget on, people are warned.
WARN_AT = 0.8


@dataclass(frozen=True)
class Terms:
    """What a team may use in a month; None is no limit. `action`: what happens when it is spent."""

    gpu_hours: float | None = None
    slot_hours: float | None = None
    action: Action = Action.HOLD


@dataclass(frozen=True)
class Standing:
    """A team's budget, and what it has used in the month."""

    team: str
    month: Month
    terms: Terms
    used_gpu_hours: float = 0.0
    used_slot_hours: float = 0.0

    @property
    def part(self) -> float:
        """The part of the budget that is spent, of the kind of hours of which more is."""
        pairs = ((self.used_gpu_hours, self.terms.gpu_hours), (self.used_slot_hours, self.terms.slot_hours))
        return max((used / limit if limit else 1.0 for used, limit in pairs if limit is not None), default=0.0)

    @property
    def state(self) -> BudgetState:
        if self.part >= 1:
            return BudgetState.SPENT
        return BudgetState.WARNING if self.part >= WARN_AT else BudgetState.OK

    @property
    def sentence(self) -> str:
        """Where the team stands, for those who may see it."""
        kinds = (
            ("GPU hours", self.used_gpu_hours, self.terms.gpu_hours),
            ("slot hours", self.used_slot_hours, self.terms.slot_hours),
        )
        used = " and ".join(
            f"{rounded(spent, 4)} of {rounded(limit, 6)} {what}" for what, spent, limit in kinds if limit is not None
        )
        text = f"team {self.team} has used {used} of its budget of {self.month}"
        if self.terms.action is Action.WARN:
            return text
        end = "when it is spent, its experiments wait" if self.part < 1 else "its experiments wait"
        return f"{text}; {end} until the next month, or until an administrator raises it"


def standings(session: Session, now: datetime, teams: Collection[str] | None = None) -> list[Standing]:
    """The budgets of these teams (None: of all) in the month of `now`, by team."""
    return [standing for _, standing in _read(session, now, teams)]


def watch(session: Session, now: datetime) -> frozenset[str]:
    """The teams that get no slots because their budget is spent. Announces each new state of a budget once: in the
    log, and to the webhooks of the team."""
    held = set()
    for row, standing in _read(session, now, None):
        state = f"{standing.month} {standing.state}"
        if row.announced != state and _announce(session, row, state) and standing.state is not BudgetState.OK:
            log.warning("%s", standing.sentence)
            notifications.publish_budget(session, standing.team, standing.state, now)
        if standing.state is BudgetState.SPENT and standing.terms.action is Action.HOLD:
            held.add(standing.team)
    return frozenset(held)


def _announce(session: Session, row: Budget, state: str) -> bool:
    """Note the state; false where the budget was removed meanwhile."""
    noted = update(Budget).where(Budget.team_id == row.team_id).values(announced=state).returning(Budget.team_id)
    return session.scalar(noted.execution_options(synchronize_session=False)) is not None


def warnings(session: Session, team: str, now: datetime) -> list[str]:
    """What somebody who submits for a team should know of its budget."""
    return [one.sentence for one in standings(session, now, [team]) if one.state is not BudgetState.OK]


def put(session: Session, team: Team, terms: Terms) -> Terms | None:
    """Set a team's budget. Returns the one before. Raises SpecError with every value that breaks a rule."""
    if problems := _problems(terms):
        raise SpecError(problems)
    row = session.get(Budget, team.id, with_for_update=True)
    before = None if row is None else _terms(row)
    session.merge(
        Budget(
            team_id=team.id,
            gpu_hours=terms.gpu_hours,
            slot_hours=terms.slot_hours,
            action=terms.action,
            announced="" if row is None else row.announced,
        )
    )
    return before


def remove(session: Session, team: Team) -> Terms | None:
    """Let a team use what it gets. Returns the budget that it had."""
    row = session.get(Budget, team.id, with_for_update=True)
    if row is None:
        return None
    session.delete(row)
    return _terms(row)


def _problems(terms: Terms) -> list[Problem]:
    hours = {"gpu_hours": terms.gpu_hours, "slot_hours": terms.slot_hours}
    found = [
        Problem(name, f"must be at least 0 and at most {MAX_HOURS}", value)
        for name, value in hours.items()
        if value is not None and not 0 <= value <= MAX_HOURS
    ]
    if all(value is None for value in hours.values()):
        found.append(Problem("gpu_hours", "must be given, or slot_hours: to remove the budget, delete it"))
    return found


def _read(session: Session, now: datetime, teams: Collection[str] | None) -> list[tuple[Budget, Standing]]:
    query = select(Budget).order_by(Budget.team_id)
    rows = list(session.scalars(query if teams is None else query.where(Budget.team_id.in_(teams))))
    if not rows:
        return []
    month = Month.of(now)
    of_month = select(UsageOfMonth).where(
        UsageOfMonth.team_id.in_([row.team_id for row in rows]), UsageOfMonth.month == month.begin
    )
    used = {one.team_id: (one.gpu_seconds / HOUR_S, one.slot_seconds / HOUR_S) for one in session.scalars(of_month)}
    return [(row, Standing(row.team_id, month, _terms(row), *used.get(row.team_id, (0.0, 0.0)))) for row in rows]


def _terms(row: Budget) -> Terms:
    return Terms(row.gpu_hours, row.slot_hours, Action(row.action))
