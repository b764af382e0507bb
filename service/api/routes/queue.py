"""The route of the queue: which experiments wait, for what, and for how long probably."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query

from search_spaces.phrases import counted
from search_spaces.protocol import API_PREFIX
from service.api import headers, pagination
from service.api.access import ExperimentList
from service.api.callers import may
from service.api.dependencies import CurrentContext
from service.api.error_handlers import error_responses
from service.api.pagination import Paging
from service.contract.errors import ValidationFailedError
from service.contract.queue import Estimate, Queue, QueueEntry, WaitsFor
from service.domain import waiting
from service.domain.accounting import Month
from service.identity.permissions import Permission
from service.store.models import Experiment

router = APIRouter(prefix=API_PREFIX, tags=["system"])

#: What passes as the experiments before it in the queue start.
MOVES_WITH_THE_QUEUE = frozenset(
    {WaitsFor.TEAM, WaitsFor.SHARE, WaitsFor.LIMIT, WaitsFor.MAX_RUNNING, WaitsFor.DRIVERS, WaitsFor.DRAINING}
)


@router.get(
    "/queue",
    summary="Get the queue",
    dependencies=[may(Permission.EXPERIMENT_READ)],
    responses={200: headers.success("The queue."), **error_responses(ValidationFailedError)},
)
def show_queue(context: CurrentContext, visible: ExperimentList, query: Annotated[Paging, Query()]) -> Queue:
    """Returns the experiments that wait for slots, the first of each team and pool before the second of any: what
    each waits for, and when it will probably start. Positions change between two pages when experiments start or come.

    Of other teams' experiments only the number is shown.
    """
    after, now = _decode(query.cursor), datetime.now(UTC)
    outage = context.cluster_cache.unreachable_reason
    with context.database.read() as session:
        own, others = visible.count_waiting(session)
        found, paces = visible.waiting(session, query.limit + 1, after), waiting.pace(session, now)
        items = [
            _entry(position, one, paces.get((one.team_id, one.pool), waiting.Pace()), outage, now)
            for position, one in found[: query.limit]
        ]
    more = pagination.encode([items[-1].position, items[-1].team, items[-1].pool]) if len(found) > query.limit else None
    return Queue(waiting=own, waiting_of_others=others, items=items, next_cursor=more)


def _entry(position: int, experiment: Experiment, pace: waiting.Pace, outage: str, now: datetime) -> QueueEntry:
    retry_s = (experiment.retry_at - now).total_seconds() if experiment.retry_at else 0.0
    waits_for, reason = WaitsFor(experiment.waits_for or WaitsFor.UNKNOWN), experiment.reason
    if outage:
        waits_for, reason = WaitsFor.RAY, f"waiting for slots: {outage}"
    elif retry_s > 0:
        waits_for = WaitsFor.RETRY
    return QueueEntry(
        position=position,
        experiment_id=experiment.id,
        name=experiment.name,
        team=experiment.team_id,
        pool=experiment.pool,
        owner=experiment.owner,
        priority=experiment.priority,
        created_at=experiment.created_at,
        cpus_per_trial=experiment.cpus_per_trial,
        gpus_per_trial=experiment.gpus_per_trial,
        gpu_type=sorted(experiment.allowed_gpu_types),
        waits_for=waits_for,
        reason=reason,
        estimate=_estimate(position, waits_for, pace, retry_s, now),
    )


def _estimate(position: int, waits_for: WaitsFor, pace: waiting.Pace, retry_s: float, now: datetime) -> Estimate:
    if waits_for is WaitsFor.RETRY:
        return Estimate(seconds=round(retry_s), basis="the pause before the next attempt, if slots are free then")
    if waits_for is WaitsFor.BUDGET:
        seconds = (Month.of(now).end - now).total_seconds()
        return Estimate(seconds=round(seconds), basis="the next month begins, if the budget is not raised before")
    if waits_for not in MOVES_WITH_THE_QUEUE:
        return Estimate(seconds=None, basis="what it waits for does not depend on the experiments before it")
    minutes = round(pace.period.total_seconds() / 60)
    amount = counted(minutes, "minute") if minutes < 120 else counted(round(minutes / 60), "hour")
    period = f"the last {'minute' if minutes == 1 else amount}"
    if not pace.started:
        return Estimate(seconds=None, basis=f"no experiment of the team started in {period}")
    basis = f"{counted(pace.started, 'experiment')} of the team started in {period}"
    return Estimate(seconds=round(position * pace.period.total_seconds() / pace.started), basis=basis)


def _decode(cursor: str | None) -> tuple[int, str, str]:
    """The position, the team and the pool after which a page begins. Raises ValidationFailedError."""
    if cursor is None:
        return 0, "", ""
    position, team, pool = pagination.decode(cursor, int, str, str)
    if not 0 <= position < 2**31:
        pagination.refuse(cursor)
    return int(position), str(team), str(pool)
