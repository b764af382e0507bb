"""Assignment: writes how many slots each running experiment has, and why each queued experiment waits.

Owns what each experiment demands; `allocation` divides the slots. Must be called under the lease. It must not know Ray.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from functools import cache

from pydantic import ValidationError
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from search_spaces.protocol import ENDED_TRIAL_STATES, Phase
from search_spaces.replicates import FIRST_REPLICATE
from search_spaces.stored import StoredSpec, read_controls
from service.contract.states import DRIVEN, State
from service.domain import experiments
from service.domain.cluster import Cluster
from service.domain.retry_policy import RetryPolicy
from service.scheduling import fitting, queue
from service.scheduling.allocation import Demand, allocate
from service.store.models import Experiment, Trial

log = logging.getLogger(__name__)


def assign_slots(
    session: Session, cluster: Cluster, now: datetime, retries: RetryPolicy, max_drivers: int
) -> dict[str, int]:
    """Write the new slots of running experiments; return the slots of the queued ones that may start.

    An experiment with a driver is one of `max_drivers`, also while it only delivers to MLflow: its process is as large.
    """
    driven, candidates = queue.lock_driven(session), queue.candidates(session, now, retries)
    active = sorted([*driven, *candidates], key=lambda experiment: (experiment.created_at, experiment.id))
    ids = [experiment.id for experiment in active]
    done, replicates = _ended_trials(session, ids), _open_replicates(session, ids)
    demands: dict[str, Demand] = {}
    for experiment in active:
        try:
            demands[experiment.id] = _demand(
                experiment, done.get(experiment.id, 0), replicates.get(experiment.id, 0), cluster
            )
        except ValidationError as error:
            _skip_unreadable(session, experiment, error, now)
    slots = allocate(cluster, list(demands.values()))
    free = max(0, max_drivers - len(driven))
    fitting_ones = [one.id for one in candidates if slots.get(one.id)]
    if len(fitting_ones) > free:  # the slots of the others are for those that run, not for further candidates
        running = {*(one.id for one in driven), *fitting_ones[:free]}
        slots = allocate(cluster, [one for one in demands.values() if one.experiment_id in running])
    for experiment in driven:
        if experiment.id in demands and experiment.slots != slots[experiment.id]:
            experiment.slots = slots[experiment.id]
    due = [one for one in candidates if one.id in demands and not _is_backing_off(one, now, retries)]
    starting = {one.id: slots[one.id] for one in due if slots.get(one.id)}
    for_whom = queue.FOR_SLOTS if len(fitting_ones) < free else queue.for_drivers(max(max_drivers, len(driven)))
    why = cache(lambda cpus, gpus: _why_misfit(cluster, cpus, gpus) or for_whom)
    reasons = {one.id: why(demands[one.id].cpus, demands[one.id].gpus) for one in due if one.id not in starting}
    queue.explain(session, reasons, candidates)
    return starting


def _ended_trials(session: Session, ids: list[str]) -> dict[str, int]:
    """The number of trials of the search that have ended."""
    return _counts(session, ids, Trial.state.in_(ENDED_TRIAL_STATES), Trial.trial < FIRST_REPLICATE)


def _open_replicates(session: Session, ids: list[str]) -> dict[str, int]:
    """The number of replicates that have not ended."""
    return _counts(session, ids, Trial.state.not_in(ENDED_TRIAL_STATES), Trial.trial >= FIRST_REPLICATE)


def _counts(session: Session, ids: list[str], *conditions: ColumnElement[bool]) -> dict[str, int]:
    rows = session.execute(
        select(Trial.experiment_id, func.count())
        .where(Trial.experiment_id.in_(ids), *conditions)
        .group_by(Trial.experiment_id)
    )
    return dict(rows.all())


def _demand(experiment: Experiment, done: int, replicates: int, cluster: Cluster) -> Demand:
    """What an experiment demands. Raises ValidationError if this version cannot read it."""
    cpus, gpus = experiment.cpus_per_trial, experiment.gpus_per_trial
    if cpus is None:  # the size was not stored as a number
        resources = StoredSpec(experiment.spec).resources
        cpus, gpus = resources.cpus_per_trial, resources.gpus_per_trial
    controls = read_controls(experiment.controls)
    # At least one, because the winner is evaluated after all trials have ended; none while only MLflow is waited for.
    most = 0 if experiment.phase == Phase.DELIVERING else max(1, controls.num_samples - done + replicates)
    return Demand(
        experiment_id=experiment.id,
        cpus=cpus,
        gpus=cluster.default_gpus_per_trial if gpus is None else gpus,
        most=min(most, controls.max_concurrent_trials or most),
        running=experiment.state in DRIVEN,
        priority=controls.priority,
        excluded=frozenset(experiment.excluded_nodes or ()) if experiment.state in DRIVEN else frozenset(),
    )


def _skip_unreadable(session: Session, experiment: Experiment, error: ValidationError, now: datetime) -> None:
    """An unreadable experiment must not block the others. If it has a driver, that keeps its slots."""
    session.refresh(experiment, with_for_update=True)
    if experiment.state == State.QUEUED:
        why = f"this version of Rung cannot read its resources or controls: {error}"
        experiments.move(session, experiment, State.ERROR, now, why)
    elif experiment.state in DRIVEN:
        log.warning("cannot read the resources or controls of experiment %s: %s", experiment.id, error)


def _is_backing_off(experiment: Experiment, now: datetime, retries: RetryPolicy) -> bool:
    """Whether its next attempt is not due yet. A longer wait than possible was written before the clock was set."""
    return experiment.retry_at is not None and timedelta(0) < experiment.retry_at - now <= retries.max_wait


def _why_misfit(cluster: Cluster, cpus: float, gpus: float) -> str:
    """Why no node can hold such a trial, even on an empty cluster; empty if one can."""
    if not cluster.nodes:
        return "waiting for a node: the cluster has none"
    if misfits := fitting.misfits(cluster, cpus, gpus):
        return f"waiting for a larger node: {misfits[0].field}: {misfits[0].rule}"
    return ""
