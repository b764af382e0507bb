"""Queue: which experiments a pass of the scheduler looks at, whatever their number.

The number of experiments that run is bounded by a setting. Of those that wait for a pool, the first of each size of
trial and of each person in a team are enough: no more can start in one pass. Owns these bounds. It must not know how
slots are divided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Session

from service.contract.states import DRIVEN, State
from service.domain.experiments import WITHOUT_SPEC
from service.domain.retry_policy import RetryPolicy
from service.scheduling.reasons import FOR_SLOTS
from service.scheduling.shares import Why
from service.store.models import Experiment

#: Candidates of one person with one size of trial: more than a pass starts, as each start takes a call of Ray.
MAX_OF_ONE_SIZE = 64
#: Candidates in all. First come the first of each person, so that nobody's many experiments hide those of others.
MAX_CANDIDATES = 256


def lock_driven(session: Session) -> list[Experiment]:
    """Every experiment that has or should have a driver, locked for the transaction."""
    query = select(Experiment).where(Experiment.state.in_(DRIVEN)).order_by(Experiment.created_at, Experiment.id)
    return list(session.scalars(query.options(WITHOUT_SPEC).with_for_update()))


def candidates(session: Session, pool: str, now: datetime, retries: RetryPolicy) -> list[Experiment]:
    """The queued experiments of a pool that may start now or soon, in the order of the queue. They are not locked."""
    order = (Experiment.priority.desc(), Experiment.created_at, Experiment.id)
    is_due_soon = or_(
        Experiment.retry_at.is_(None),
        Experiment.retry_at <= now + retries.wait_after(1),
        Experiment.retry_at > now + retries.max_wait,  # written before the clock was set
    )
    person = (Experiment.team_id, Experiment.owner_id)
    size = (*person, Experiment.cpus_per_trial, Experiment.gpus_per_trial, Experiment.gpu_type)
    place = func.row_number().over(partition_by=size, order_by=order).label("place")
    of_size = (
        select(Experiment.id, Experiment.priority, Experiment.created_at, *person, place)
        .where(Experiment.state == State.QUEUED, Experiment.pool == pool, is_due_soon)
        .subquery()
    )
    one = of_size.c
    turn = func.row_number().over(
        partition_by=(one.team_id, one.owner_id),
        order_by=(one.place, one.priority.desc(), one.created_at, one.id),
    )
    of_person = select(one.id, turn.label("turn")).where(one.place <= MAX_OF_ONE_SIZE).subquery()
    query = (
        select(Experiment)
        .join(of_person, of_person.c.id == Experiment.id)
        .order_by(of_person.c.turn, *order)
        .limit(MAX_CANDIDATES)
    )
    found = session.scalars(query.options(WITHOUT_SPEC))
    return sorted(found, key=lambda each: (-each.priority, each.created_at, each.id))


@dataclass(frozen=True)
class Waiting:
    """What an experiment waits for, and that as a sentence."""

    why: Why
    reason: str


#: What keeps all experiments of a team waiting, wherever they are in the queue.
FOR_ALL = frozenset({Why.HOLD, Why.BUDGET, Why.LIMIT, Why.MAX_RUNNING, Why.DRIVERS})
BEHIND = Waiting(Why.TEAM, FOR_SLOTS)


def explain(session: Session, pool: str, waiting: Mapping[str, Waiting], found: Sequence[Experiment]) -> None:
    """Write why candidates of a pool wait, by id, and why those behind them do: for what the last candidate of the same
    team waits for, where that is a rule for all of them, otherwise for free slots.

    Rows that were changed meanwhile keep the reason that they got.
    """
    changes: dict[tuple[str, Waiting], list[str]] = {}
    for experiment in found:
        one = waiting.get(experiment.id)
        if one is not None and (one.reason, one.why.name.lower()) != (experiment.reason, experiment.waits_for):
            changes.setdefault((experiment.reason, one), []).append(experiment.id)
    queued = update(Experiment).where(Experiment.state == State.QUEUED, Experiment.pool == pool)
    queued = queued.execution_options(synchronize_session=False)
    for (old, new), ids in changes.items():
        values = {"reason": new.reason, "waits_for": new.why.name.lower()}
        session.execute(queued.where(Experiment.id.in_(ids), Experiment.reason == old).values(**values))
    if len(found) >= MAX_OF_ONE_SIZE:
        _explain_behind(session, pool, waiting, found)


def _explain_behind(session: Session, pool: str, waiting: Mapping[str, Waiting], found: Sequence[Experiment]) -> None:
    """One statement for each team, however many sizes of trials there are."""
    last = {experiment.team_id: waiting.get(experiment.id) for experiment in found}
    is_behind = (
        Experiment.state == State.QUEUED,
        Experiment.pool == pool,
        Experiment.retry_at.is_(None),
        Experiment.id.not_in([one.id for one in found]),
    )
    for team, one in last.items():
        right = one if one is not None and one.why in FOR_ALL else BEHIND
        _write_reason(session, right, *is_behind, Experiment.team_id == team)
    if len(found) >= MAX_CANDIDATES:
        _write_reason(session, BEHIND, *is_behind, Experiment.reason == "")


def _write_reason(session: Session, one: Waiting, *which: ColumnElement[bool]) -> None:
    why = one.why.name.lower()
    differs = or_(Experiment.reason != one.reason, Experiment.waits_for != why)
    change = update(Experiment).where(*which, differs).execution_options(synchronize_session=False)
    session.execute(change.values(reason=one.reason, waits_for=why))
