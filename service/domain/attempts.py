"""Attempts: the drivers of an experiment, one after another, from launch to end or loss.

Owns the tokens, the fencing by attempt number, and what follows from a failure. What a driver reports is in
`heartbeats`. It must not know HTTP or Ray: the reconciler asks Ray about a driver and reports the result here.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from search_spaces.problems import shorten
from search_spaces.protocol import DEFAULT_TEAM, ENDED_TRIAL_STATES, Phase, attempt_id
from service.contract.errors import ConflictError, ForbiddenError
from service.contract.states import OPEN, AttemptState, State
from service.domain import experiments
from service.domain.retry_policy import Replacement
from service.store.models import Attempt, Experiment, Trial

#: For so long after its end a driver may send the winner's plots to MLflow.
PLOTS = timedelta(hours=1)
#: For so long, the next attempt does not use a node that failed one: as long as a driver waits before it tries again.
NODES_AGAIN = timedelta(minutes=10)
#: The workspace that an MLflow has from the beginning. It is the one of the team `default`.
DEFAULT_WORKSPACE = DEFAULT_TEAM
#: The reason of an experiment that returns to the queue because its slots are others'.
PREEMPTED = "it has lost its slots; it continues when it gets slots again"
BUDGET_SPENT = "the budget of its team for this month is spent; it continues when there is a new one"


def why_preempted(experiment: Experiment) -> str:
    """The reason of an experiment that returns, or has to return, to the queue."""
    return BUDGET_SPENT if experiment.waits_for == "budget" else PREEMPTED


def start(session: Session, experiment: Experiment, slots: int, now: datetime) -> tuple[Attempt, str]:
    """A new attempt of a queued experiment, and the token that only its driver will know."""
    experiments.move(session, experiment, State.RUNNING, now)
    token = secrets.token_urlsafe(32)
    experiment.excluded_nodes = excluded_nodes(session, [experiment], now).get(experiment.id)
    experiment.attempt += 1
    experiment.slots, experiment.phase = slots, Phase.STARTING
    experiment.leaving_nodes = None
    attempt = Attempt(
        id=attempt_id(experiment.id, experiment.attempt),
        experiment_id=experiment.id,
        number=experiment.attempt,
        state=AttemptState.STARTING,
        token_sha256=_digest(token),
        created_at=now,
    )
    session.add(attempt)
    return attempt, token


def authenticate(session: Session, id_of_attempt: str, token: str) -> Attempt:
    """The attempt that the token belongs to. Raises ForbiddenError for a wrong token, also where there is no such
    attempt: who has no valid token does not learn which experiments there are."""
    attempt = session.get(Attempt, id_of_attempt[:64].replace("\0", ""))
    stored = _digest("") if attempt is None else attempt.token_sha256
    if not hmac.compare_digest(stored, _digest(token)) or attempt is None:
        raise ForbiddenError(f"the token does not belong to an attempt {shorten(id_of_attempt)}")
    return attempt


def mlflow_workspace(session: Session, id_of_attempt: str, token: str, now: datetime) -> str:
    """The workspace of MLflow that the driver of an attempt may write to. What began before MLflow had workspaces is in
    the one that everything else got then. Raises ForbiddenError for a wrong token, and ConflictError for an attempt
    that is lost, was superseded, or ended long ago."""
    attempt = authenticate(session, id_of_attempt, token)
    experiment = experiments.find(session, attempt.experiment_id)
    draws = attempt.state == AttemptState.ENDED and attempt.ended_at is not None and now - attempt.ended_at < PLOTS
    if attempt.number != experiment.attempt or not (attempt.state in OPEN or draws):
        raise ConflictError(f"attempt {attempt.id} is {attempt.state}: it writes nothing more")
    return experiment.mlflow_workspace or DEFAULT_WORKSPACE


def current(session: Session, experiment: Experiment) -> Attempt | None:
    """The newest attempt, the only one that may change anything; None before the first."""
    return of_number(session, experiment.id, experiment.attempt)


def of_number(session: Session, experiment_id: str, number: int) -> Attempt | None:
    """An attempt by its number, if it was started."""
    return session.scalar(select(Attempt).where(Attempt.experiment_id == experiment_id, Attempt.number == number))


def failed_before(session: Session, experiment: Experiment) -> int:
    """The number of the newest attempt that said how it ended, if the experiment failed with it; otherwise 0.

    An attempt after it exists only because a person resumed the experiment.
    """
    query = select(Attempt).where(Attempt.experiment_id == experiment.id, Attempt.state == AttemptState.ENDED)
    newest = session.scalar(query.order_by(Attempt.number.desc()).limit(1))
    return newest.number if newest is not None and newest.phase == Phase.FAILED else 0


def list_all(session: Session, experiment: Experiment) -> list[Attempt]:
    """Every attempt, oldest first."""
    query = select(Attempt).where(Attempt.experiment_id == experiment.id)
    return list(session.scalars(query.order_by(Attempt.number)))


def excluded_nodes(session: Session, queued: Iterable[Experiment], now: datetime) -> dict[str, list[str]]:
    """Ids of the nodes that queued experiments do not use yet, by experiment: those that failed their last attempts,
    which ended less than NODES_AGAIN ago."""
    found = {attempt_id(one.id, one.attempt): one for one in queued if one.excluded_nodes}
    if not found:
        return {}
    ended = session.execute(select(Attempt.id, Attempt.ended_at).where(Attempt.id.in_(found)))
    lately = [found[one] for one, at in ended if at is not None and timedelta(0) <= now - at < NODES_AGAIN]
    return {one.id: list(one.excluded_nodes or ()) for one in lately}


def pending_cancellations(session: Session, experiment: Experiment) -> list[int]:
    """Trials whose cancellation a person requested and that have not ended."""
    query = select(Trial.trial).where(Trial.experiment_id == experiment.id, Trial.cancel_asked_at.is_not(None))
    return list(session.scalars(query.where(Trial.state.not_in(ENDED_TRIAL_STATES)).order_by(Trial.trial)))


def mark_lost(session: Session, experiment: Experiment, attempt: Attempt, why: str, replacement: Replacement) -> None:
    """Record that an attempt is lost. Another one follows after a wait, unless too many failed in a row."""
    _close(attempt, AttemptState.LOST, why, replacement.now)
    count_failure(session, experiment, why, replacement)


def requeue_unlaunched(
    session: Session, experiment: Experiment, attempt: Attempt, why: str, replacement: Replacement
) -> None:
    """Queue the experiment again because its driver never started, which does not count as a failure of it.

    The wait grows with each attempt in a row that Ray did not take.
    """
    _close(attempt, AttemptState.LOST, why, replacement.now)
    if experiment.state != State.RUNNING:
        _finish_pending_stop(session, experiment, why, replacement.now)
        return
    experiments.move(session, experiment, State.QUEUED, replacement.now, why)
    failures = _consecutive_launch_failures(session, experiment)
    experiment.retry_at = replacement.now + replacement.retries.wait_after(failures)


def end(attempt: Attempt, reason: str, now: datetime) -> None:
    """Record that an attempt sent its final heartbeat."""
    _close(attempt, AttemptState.ENDED, reason, now)


def count_failure(session: Session, experiment: Experiment, why: str, replacement: Replacement) -> None:
    """Queue the experiment again after a wait, or end it when too many attempts failed in a row.

    One whose driver was to end anyway is queued at once, and no failure is counted.
    """
    now, retries = replacement.now, replacement.retries
    experiment.failures += experiment.state != State.PREEMPTING
    if experiment.state != State.RUNNING:
        _finish_pending_stop(session, experiment, why, now)
    elif experiment.failures >= retries.max_attempts:
        reason = f"failed after {experiment.failures} attempts: {why}"
        experiments.move(session, experiment, State.ERROR, now, reason)
    else:
        wait = retries.wait_after(experiment.failures)
        reason = f"attempt {experiment.attempt} was lost; the next attempt starts in {wait.total_seconds():g} s: {why}"
        experiments.move(session, experiment, State.QUEUED, now, reason)
        experiment.retry_at = now + wait


def _finish_pending_stop(session: Session, experiment: Experiment, why: str, now: datetime) -> None:
    """A driver that was asked to stop and is gone has stopped."""
    to, what = {
        State.STOPPING: (State.CANCELED, "canceled on request"),
        State.PREEMPTING: (State.QUEUED, why_preempted(experiment)),
    }.get(State(experiment.state), (State.PAUSED, "paused on request"))
    experiments.move(session, experiment, to, now, f"{what}, without a final heartbeat of its driver: {why}")


def _consecutive_launch_failures(session: Session, experiment: Experiment) -> int:
    """How many attempts in a row, up to the newest, never reached Ray."""
    reached = Attempt.submitted_at.is_not(None) | Attempt.last_heartbeat_at.is_not(None)
    query = select(func.max(Attempt.number)).where(Attempt.experiment_id == experiment.id, reached)
    return experiment.attempt - (session.scalar(query) or 0)


def _close(attempt: Attempt, state: AttemptState, reason: str, now: datetime) -> None:
    attempt.state, attempt.reason, attempt.ended_at = state, reason, now


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
