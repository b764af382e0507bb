"""Census: how many experiments, drivers and trials there are, in which states, counted in the database.

Owns the queries, whose number does not depend on what there is: states are counted in an index, what waits and what
runs is read. It must not know how the numbers are shown, nor Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session

from search_spaces.pool_names import DEFAULT_POOL
from search_spaces.protocol import Phase, TrialState
from service.contract.states import DRIVEN, State
from service.store.models import Attempt, Experiment, StoredPool, Trial


class Waiting(StrEnum):
    """What a queued experiment waits for."""

    PASS = "pass"  # the next pass of the reconciler
    SLOTS = "slots"
    DRIVERS = "drivers"  # RUNG_MAX_DRIVERS others run
    NODE = "node"  # there is none, or a new one is requested from Ray
    LARGER_NODE = "larger_node"
    TEAM = "team"  # what the team may use is used
    BUDGET = "budget"  # the team has spent that of this month
    HOLD = "hold"  # an administrator has stopped the queue
    RETRY = "retry"  # until the next attempt is due
    OTHER = "other"


#: How the reason of an experiment begins that waits for it; `service.scheduling` writes these reasons.
REASONS = {
    Waiting.SLOTS: "waiting for free slots",
    Waiting.DRIVERS: "waiting for another experiment to end",
    Waiting.NODE: "waiting for a node",
    Waiting.LARGER_NODE: "waiting for a larger node:",
    Waiting.TEAM: "waiting for its team",
    Waiting.BUDGET: "waiting for the budget of its team",
    Waiting.HOLD: "waiting for an administrator",
}


@dataclass(frozen=True)
class RunningDriver:
    """An experiment that has or should have a driver. `heartbeat_age_s` is None before the first heartbeat.

    CPUs and GPUs are those of its slots together; a GPU share that the cluster decides is None.
    """

    pool: str
    phase: Phase
    slots: int
    cpus: float
    gpus: float | None
    heartbeat_age_s: float | None


@dataclass(frozen=True)
class Census:
    """`pools`: the labels of the nodes of each, none for the default one. `waiting` counts by pool. `trials` are those
    of the experiments with a driver. `lease_left_s`: seconds until the lease of the queue ends, negative since it has
    ended; None if nobody ever held it."""

    pools: Mapping[str, Mapping[str, str]]
    experiments: Mapping[State, int]
    waiting: Mapping[tuple[str, Waiting], int]
    drivers: tuple[RunningDriver, ...]
    trials: Mapping[TrialState, int]
    lease_left_s: float | None


def take(session: Session, lease_ends_at: datetime | None, now: datetime) -> Census:
    """Count everything."""
    by_state = session.execute(select(Experiment.state, func.count()).group_by(Experiment.state))
    experiments = {State(state): count for state, count in by_state}
    pools = {row.name: row.labels for row in session.execute(select(StoredPool.name, StoredPool.labels))}
    kinds = select(Experiment.pool, _kind(now).label("kind")).where(Experiment.state == State.QUEUED).subquery()
    queued = select(kinds.c.pool, kinds.c.kind, func.count()).group_by(kinds.c.pool, kinds.c.kind)
    waiting = {(pool, Waiting(kind)): count for pool, kind, count in session.execute(queued)}
    driven = select(Experiment.id).where(Experiment.state.in_(DRIVEN))
    trials = select(Trial.state, func.count()).where(Trial.experiment_id.in_(driven)).group_by(Trial.state)
    return Census(
        pools={DEFAULT_POOL: {}} | pools,
        experiments=dict.fromkeys(State, 0) | experiments,
        waiting=waiting,
        drivers=_drivers(session, now),
        trials=dict.fromkeys(TrialState, 0) | {TrialState(state): count for state, count in session.execute(trials)},
        lease_left_s=None if lease_ends_at is None else (lease_ends_at - now).total_seconds(),
    )


def _kind(now: datetime) -> ColumnElement[str]:
    """What a queued experiment waits for, as the database decides it."""
    return case(
        (Experiment.retry_at > now, Waiting.RETRY),
        (Experiment.reason == "", Waiting.PASS),
        *((Experiment.reason.startswith(text, autoescape=True), found) for found, text in REASONS.items()),
        else_=Waiting.OTHER,
    )


def _drivers(session: Session, now: datetime) -> tuple[RunningDriver, ...]:
    newest = (Attempt.experiment_id == Experiment.id) & (Attempt.number == Experiment.attempt)
    query = select(
        Experiment.pool,
        Experiment.phase,
        Experiment.slots,
        Experiment.cpus_per_trial,
        Experiment.gpus_per_trial,
        Attempt.last_heartbeat_at,
    )
    rows = session.execute(query.join(Attempt, newest).where(Experiment.state.in_(DRIVEN)))
    return tuple(
        RunningDriver(
            pool=pool,
            phase=Phase(phase or Phase.STARTING),
            slots=slots,
            cpus=slots * (1 if cpus is None else cpus),
            gpus=None if gpus is None else slots * gpus,
            heartbeat_age_s=None if heard_at is None else max(0.0, (now - heard_at).total_seconds()),
        )
        for pool, phase, slots, cpus, gpus, heard_at in rows
    )
