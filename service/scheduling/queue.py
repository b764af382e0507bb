"""Queue: which experiments a pass of the scheduler looks at, whatever their number.

The number of experiments that run is bounded by a setting. Of those that wait, the first of each size of trial
are enough: no more can start in one pass. Owns these bounds. It must not know how slots are divided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from service.contract.states import DRIVEN, State
from service.domain.experiments import WITHOUT_SPEC
from service.domain.retry_policy import RetryPolicy
from service.settings import variable
from service.store.models import Experiment

#: Candidates with one size of trial: more than a pass starts, as each start takes a call of Ray.
MAX_OF_ONE_SIZE = 64
#: Candidates in all, those of the highest priority and the greatest age first.
MAX_CANDIDATES = 512
FOR_SLOTS = "waiting for free slots"


def for_drivers(running: int) -> str:
    """What an experiment waits for while as many run as may."""
    return f"waiting for another experiment to end: {running} run already ({variable('max_drivers')})"


def lock_driven(session: Session) -> list[Experiment]:
    """Every experiment that has or should have a driver, locked for the transaction."""
    query = select(Experiment).where(Experiment.state.in_(DRIVEN)).order_by(Experiment.created_at, Experiment.id)
    return list(session.scalars(query.options(WITHOUT_SPEC).with_for_update()))


def candidates(session: Session, now: datetime, retries: RetryPolicy) -> list[Experiment]:
    """The queued experiments that may start now or soon, in the order of the queue. They are not locked."""
    order = (Experiment.priority.desc(), Experiment.created_at, Experiment.id)
    is_due_soon = or_(
        Experiment.retry_at.is_(None),
        Experiment.retry_at <= now + retries.wait_after(1),
        Experiment.retry_at > now + retries.max_wait,  # written before the clock was set
    )
    size = (Experiment.cpus_per_trial, Experiment.gpus_per_trial)
    ranked = (
        select(Experiment.id, func.row_number().over(partition_by=size, order_by=order).label("place"))
        .where(Experiment.state == State.QUEUED, is_due_soon)
        .subquery()
    )
    query = (
        select(Experiment)
        .join(ranked, ranked.c.id == Experiment.id)
        .where(ranked.c.place <= MAX_OF_ONE_SIZE)
        .order_by(*order)
        .limit(MAX_CANDIDATES)
    )
    return list(session.scalars(query.options(WITHOUT_SPEC)))


def explain(session: Session, reasons: Mapping[str, str], found: Sequence[Experiment]) -> None:
    """Write why candidates wait, by id; those behind the candidates that have no reason yet wait for free slots.

    Rows that were changed meanwhile keep the reason that they got.
    """
    changes: dict[tuple[str, str], list[str]] = {}
    for experiment in found:
        if reasons.get(experiment.id, experiment.reason) != experiment.reason:
            changes.setdefault((experiment.reason, reasons[experiment.id]), []).append(experiment.id)
    queued = update(Experiment).where(Experiment.state == State.QUEUED).execution_options(synchronize_session=False)
    for (old, new), ids in changes.items():
        session.execute(queued.where(Experiment.id.in_(ids), Experiment.reason == old).values(reason=new))
    if len(found) >= MAX_OF_ONE_SIZE:
        behind = queued.where(Experiment.reason == "", Experiment.id.not_in([one.id for one in found]))
        session.execute(behind.values(reason=FOR_SLOTS))
