"""Attempts: the drivers of an experiment, one after another, and what their heartbeats and their silence mean.

Owns tokens, fencing by number, retries and the trial lines that drivers tell. It must not know HTTP or
Ray: the reconciler asks Ray what became of a driver and says it here.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from search_spaces.problems import Problem
from search_spaces.protocol import ENDED_TRIAL_STATES, Directives, Heartbeat, TrialUpdate, attempt_id
from search_spaces.stored import StoredSpec
from service.contract.errors import ConflictError, ForbiddenError, NotFoundError, ValidationFailedError
from service.contract.states import ENDED, State
from service.domain import actions, experiments
from service.domain.retry_policy import RetryPolicy
from service.store.models import Attempt, Experiment, Trial

LARGEST_NUMBER = 10**7
NUMBERS = ("trial", "epoch", "best_epoch", "restarts")
FINAL = frozenset({"completed", "canceled", "paused", "failed"})


class AttemptState(StrEnum):
    STARTING = "STARTING"  # handed to Ray, or about to be; not heard of yet
    RUNNING = "RUNNING"
    ENDED = "ENDED"  # said its last word
    LOST = "LOST"  # fell silent, or was found dead


OPEN = frozenset({AttemptState.STARTING, AttemptState.RUNNING})


def start(session: Session, experiment: Experiment, slots: int, now: datetime) -> tuple[Attempt, str]:
    """A new attempt of a queued experiment, and the token that only its driver will know."""
    experiments.move(experiment, State.RUNNING, now)
    token = secrets.token_urlsafe(32)
    experiment.attempt += 1
    experiment.slots, experiment.phase = slots, "starting"
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


def current(session: Session, experiment: Experiment) -> Attempt | None:
    """The attempt that is obeyed now, if any was begun."""
    return of_number(session, experiment.id, experiment.attempt)


def of_number(session: Session, experiment_id: str, number: int) -> Attempt | None:
    """An attempt by its number, if it was begun."""
    return session.scalar(select(Attempt).where(Attempt.experiment_id == experiment_id, Attempt.number == number))


def handle_heartbeat(
    session: Session, attempt_id: str, token: str, heartbeat: Heartbeat, now: datetime, retries: RetryPolicy
) -> Directives:
    """Take in what a driver says, and answer with its orders.

    Raises NotFoundError, ForbiddenError for a wrong token, ConflictError for an attempt that is not the current one.
    A last word that is said again, because its answer was lost, is answered again.
    """
    attempt = session.get(Attempt, attempt_id[:64].replace("\0", ""))
    if attempt is None:
        raise NotFoundError(f"there is no attempt {attempt_id[:64]!r}")
    if not hmac.compare_digest(attempt.token_sha256, _digest(token)):
        raise ForbiddenError(f"this token is not that of attempt {attempt.id}")
    experiment = experiments.find(session, attempt.experiment_id, lock=True)
    session.refresh(attempt)
    if attempt.state == AttemptState.ENDED and attempt.phase == heartbeat.phase:
        return Directives(slots=0)
    if attempt.number != experiment.attempt or attempt.state not in OPEN or experiment.state in ENDED:
        raise ConflictError(
            f"attempt {attempt.id} is {attempt.state}, experiment {experiment.id} is {experiment.state} "
            f"with attempt {experiment.attempt}: stop, and write nothing"
        )
    attempt.last_heartbeat_at, attempt.phase, attempt.state = now, heartbeat.phase, AttemptState.RUNNING
    experiment.mlflow_experiment_id = heartbeat.mlflow_experiment_id or experiment.mlflow_experiment_id
    experiment.mlflow_run_id = heartbeat.mlflow_run_id or experiment.mlflow_run_id
    _write_trials(session, experiment, attempt, heartbeat.trials, now)
    _update_best(session, experiment, heartbeat)
    if heartbeat.phase in FINAL:
        _end(session, experiment, attempt, heartbeat, now, retries)
        return Directives(slots=0)
    experiment.phase = heartbeat.phase
    if experiment.state == State.RUNNING:
        experiment.reason = heartbeat.reason  # what it waits for
    stop = {State.STOPPING: "cancel", State.PAUSING: "pause"}.get(State(experiment.state))
    return Directives.model_validate(
        {
            "slots": experiment.slots,
            "stop": stop,
            "cancel_trials": pending_cancellations(session, experiment),
            "controls": experiment.controls,
        }
    )


def mark_lost(
    session: Session, experiment: Experiment, attempt: Attempt, why: str, now: datetime, retries: RetryPolicy
) -> None:
    """Give an attempt up: another one after a while, or the end when there were enough of them."""
    attempt.state, attempt.reason, attempt.ended_at = AttemptState.LOST, why, now
    _after_failure(session, experiment, why, now, retries)


def requeue_unlaunched(
    session: Session, experiment: Experiment, attempt: Attempt, why: str, now: datetime, retries: RetryPolicy
) -> None:
    """The driver was never started, through no fault of the experiment: queue again, and count no failure.

    The wait grows with each attempt in a row that was begun in vain.
    """
    attempt.state, attempt.reason, attempt.ended_at = AttemptState.LOST, why, now
    if experiment.state == State.RUNNING:
        experiments.move(experiment, State.QUEUED, now, why)
        experiment.retry_at = now + retries.wait_after(consecutive_launch_failures(session, experiment))
    else:
        finish_pending_stop(experiment, now, why)
    if experiment.state in ENDED:
        experiments.close_trials(session, experiment, now)


def fail_unlaunchable(session: Session, experiment: Experiment, why: str, now: datetime) -> None:
    """End a queued experiment that this version of the service cannot launch."""
    experiments.move(experiment, State.ERROR, now, why)
    experiments.close_trials(session, experiment, now)


def pending_cancellations(session: Session, experiment: Experiment) -> list[int]:
    """Trials whose end was asked for and has not come."""
    query = select(Trial.trial).where(Trial.experiment_id == experiment.id, Trial.cancel_asked_at.is_not(None))
    return list(session.scalars(query.where(Trial.state.not_in(ENDED_TRIAL_STATES)).order_by(Trial.trial)))


def _end(
    session: Session,
    experiment: Experiment,
    attempt: Attempt,
    heartbeat: Heartbeat,
    now: datetime,
    retries: RetryPolicy,
) -> None:
    attempt.state, attempt.reason, attempt.ended_at = AttemptState.ENDED, heartbeat.reason, now
    state = State(experiment.state)
    if heartbeat.phase == "completed":
        experiments.move(experiment, State.COMPLETED, now, heartbeat.reason)
        if heartbeat.controls is not None and state is State.RUNNING:
            session.flush()
            actions.apply_late_changes(session, experiment, heartbeat.controls, now)
    elif state is State.STOPPING:
        experiments.move(experiment, State.CANCELED, now, heartbeat.reason or "canceled on request")
    elif state is State.PAUSING and heartbeat.phase == "paused":
        experiments.move(experiment, State.PAUSED, now, heartbeat.reason or "paused on request")
    elif state is State.RUNNING and heartbeat.phase == "paused" and heartbeat.blocked:
        # Not a failure of the attempt: the next one would meet the same, until a person has made room.
        experiments.move(
            experiment, State.PAUSED, now, heartbeat.reason or "its driver cannot go on and gave no reason"
        )
    elif heartbeat.phase == "failed":
        experiments.move(experiment, State.ERROR, now, heartbeat.reason or "the driver failed and gave no reason")
    else:
        why = heartbeat.reason or "nobody had asked for it"
        return _after_failure(session, experiment, f"the driver stopped by itself ({why})", now, retries)
    if experiment.state in ENDED:
        experiments.close_trials(session, experiment, now)
    return None


def _after_failure(session: Session, experiment: Experiment, why: str, now: datetime, retries: RetryPolicy) -> None:
    experiment.failures += 1
    if experiment.state != State.RUNNING:
        finish_pending_stop(experiment, now, why)
    elif experiment.failures >= retries.max_attempts:
        experiments.move(experiment, State.ERROR, now, f"given up after {experiment.failures} attempts: {why}")
    else:
        wait = retries.wait_after(experiment.failures)
        reason = f"attempt {experiment.attempt} was lost, another follows in {wait.total_seconds():g} s: {why}"
        experiments.move(experiment, State.QUEUED, now, reason)
        experiment.retry_at = now + wait
    if experiment.state in ENDED:
        experiments.close_trials(session, experiment, now)


def finish_pending_stop(experiment: Experiment, now: datetime, why: str) -> None:
    """A driver that was to stop and is gone has stopped."""
    if experiment.state == State.STOPPING:
        experiments.move(experiment, State.CANCELED, now, f"canceled on request; its driver was gone already: {why}")
    else:
        experiments.move(experiment, State.PAUSED, now, f"paused on request; its driver was gone already: {why}")


def consecutive_launch_failures(session: Session, experiment: Experiment) -> int:
    """How many attempts in a row, up to the newest, never reached Ray."""
    reached = Attempt.submitted_at.is_not(None) | Attempt.last_heartbeat_at.is_not(None)
    query = select(func.max(Attempt.number)).where(Attempt.experiment_id == experiment.id, reached)
    return experiment.attempt - (session.scalar(query) or 0)


def _write_trials(
    session: Session, experiment: Experiment, attempt: Attempt, lines: list[TrialUpdate], now: datetime
) -> None:
    for line in lines:
        for field in NUMBERS:
            number = getattr(line, field)
            if number is not None and not 0 <= number < LARGEST_NUMBER:
                problem = Problem(f"trials.{field}", f"0 <= {field} < {LARGEST_NUMBER} required", number)
                raise ValidationFailedError(f"a trial has no such {field}", [problem])
    numbers = [line.trial for line in lines]
    known: dict[int, Trial] = {}
    for start in range(0, len(numbers), 500):
        query = select(Trial).where(Trial.experiment_id == attempt.experiment_id)
        known |= {t.trial: t for t in session.scalars(query.where(Trial.trial.in_(numbers[start : start + 500])))}
    for line in lines:
        trial = known.get(line.trial)
        if trial is None:
            trial = known[line.trial] = Trial(experiment_id=attempt.experiment_id, trial=line.trial)
            session.add(trial)
        if line.epoch > (trial.epoch or 0):
            experiment.failures = 0  # losses count in a row; epochs are finite, so that drivers that die in turn end
        trial.attempt = attempt.number
        trial.state = line.state
        trial.stop_reason = line.stop_reason
        trial.epoch = line.epoch
        trial.best_value, trial.best_epoch = _finite(line.best_value), line.best_epoch
        trial.metrics = {name: _finite(value) for name, value in line.metrics.items()}
        trial.parameters = {
            n: str(v) if isinstance(v, float) and not math.isfinite(v) else v for n, v in line.parameters.items()
        }
        if line.sample is not None and all(map(math.isfinite, line.sample.values())):
            trial.sample = line.sample
        trial.mlflow_run_id = line.mlflow_run_id or trial.mlflow_run_id
        trial.restarts, trial.error_kind = line.restarts, line.error_kind
        trial.started_at, trial.ended_at, trial.updated_at = _timestamp(line.started_at), _timestamp(line.ended_at), now
    session.flush()


def _update_best(session: Session, experiment: Experiment, heartbeat: Heartbeat) -> None:
    if heartbeat.winner is not None:
        experiment.winner = json.loads(heartbeat.winner.model_dump_json())
        experiment.best_trial, experiment.best_value = heartbeat.winner.trial, _finite(heartbeat.winner.value)
    elif heartbeat.trials:  # a winner of an earlier end may have been surpassed since
        largest = StoredSpec(experiment.spec).objective.sign > 0
        order = Trial.best_value.desc() if largest else Trial.best_value.asc()
        query = select(Trial.trial, Trial.best_value).where(
            Trial.experiment_id == experiment.id, Trial.best_value.is_not(None)
        )
        best = session.execute(query.order_by(order, Trial.trial).limit(1)).one_or_none()
        experiment.best_trial, experiment.best_value = best if best else (None, None)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _timestamp(seconds: float | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
