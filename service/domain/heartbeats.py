"""Heartbeats: what a driver reports, and what the service wants of it in return.

Owns what a heartbeat changes: the rows of the trials that it reports, and the best trial. It must not know HTTP or Ray.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from search_spaces.objective import Objective
from search_spaces.problems import Problem
from search_spaces.protocol import FINAL_PHASES, Directives, Heartbeat, Packing, Phase, TrialUpdate, finite_or_none
from search_spaces.replicates import FIRST_REPLICATE, is_replicate
from search_spaces.stored import StoredSpec
from service.contract.errors import ConflictError, ValidationFailedError
from service.contract.states import ENDED, OPEN, AttemptState, State
from service.contract.webhook_events import Event
from service.domain import actions, attempts, experiments, notifications
from service.domain.retry_policy import Replacement
from service.store.models import WITHOUT_VALUES, Attempt, Experiment, Trial

#: What a driver is asked for in each state in which it must end. To it, a preemption is a pause.
STOPS = {State.STOPPING: "cancel", State.PAUSING: "pause", State.PREEMPTING: "pause"}

#: Fields of `Winner` that are shares in [0, 1].
TEST_SHARES = (
    "test_accuracy",
    "test_balanced_accuracy",
    "test_macro_f1",
    "test_top5_accuracy",
    "test_calibration_error",
)
ROUNDING = 1e-6  # by which a mean of shares may be above 1: a refused winner would cost the attempt


def handle_heartbeat(
    session: Session, attempt_id: str, token: str, heartbeat: Heartbeat, replacement: Replacement
) -> Directives:
    """Store what a driver reports, and answer with what it must do.

    Raises ForbiddenError for a wrong token, ConflictError for an attempt that was superseded, ValidationFailedError for
    a winner with an accuracy that is not between 0 and 1. A final
    heartbeat that is repeated because its answer was lost is answered again.
    """
    attempt = attempts.authenticate(session, attempt_id, token)
    experiment = experiments.find(session, attempt.experiment_id, lock=True)
    session.refresh(attempt)
    if attempt.state == AttemptState.ENDED and attempt.phase == heartbeat.phase:
        return Directives(slots=0)
    if attempt.number != experiment.attempt or attempt.state not in OPEN or experiment.state in ENDED:
        raise ConflictError(
            f"attempt {attempt.id} is {attempt.state}, experiment {experiment.id} is {experiment.state} "
            f"with attempt {experiment.attempt}: stop, and write nothing more"
        )
    _check_winner(experiment, heartbeat)
    attempt.last_heartbeat_at, attempt.phase, attempt.state = replacement.now, heartbeat.phase, AttemptState.RUNNING
    experiment.mlflow_experiment_id = heartbeat.mlflow_experiment_id or experiment.mlflow_experiment_id
    experiment.mlflow_run_id = heartbeat.mlflow_run_id or experiment.mlflow_run_id
    experiment.mlflow_view = heartbeat.mlflow_view or experiment.mlflow_view
    experiment.excluded_nodes = heartbeat.excluded_nodes or None
    experiment.leaving_nodes = heartbeat.leaving_nodes or None
    _write_packing(experiment, heartbeat.packing)
    _write_trials(session, experiment, attempt, heartbeat.trials, replacement.now)
    had_reached_goal = experiments.has_reached_goal(experiment)
    _update_best(session, experiment, heartbeat)
    if not had_reached_goal and experiments.has_reached_goal(experiment):
        notifications.publish(session, Event.GOAL_REACHED, experiment, replacement.now)
    if heartbeat.phase in FINAL_PHASES:
        attempts.end(attempt, heartbeat.reason, replacement.now)
        _end_experiment(session, experiment, heartbeat, replacement)
        return Directives(slots=0)
    experiment.phase = heartbeat.phase
    if experiment.state == State.RUNNING:
        experiment.reason = heartbeat.reason  # what the driver waits for
    directives = {
        "slots": experiment.slots,
        "slot_nodes": experiment.slot_nodes,
        "stop": STOPS.get(State(experiment.state)),
        "stop_reason": attempts.why_preempted(experiment) if experiment.state == State.PREEMPTING else "",
        "stop_epochs": experiment.stop_epochs,
        "pool": experiment.pool_nodes,
        "cancel_trials": attempts.pending_cancellations(session, experiment),
    }
    try:
        return Directives.model_validate(directives | {"controls": experiment.controls})
    except ValidationError:  # this version cannot read the controls: the driver keeps those that it has
        return Directives.model_validate(directives)


def _end_experiment(session: Session, experiment: Experiment, heartbeat: Heartbeat, replacement: Replacement) -> None:
    """What becomes of an experiment whose driver sent a final heartbeat."""
    state, reason, now = State(experiment.state), heartbeat.reason, replacement.now
    if heartbeat.phase is Phase.COMPLETED:
        experiments.move(session, experiment, State.COMPLETED, now, reason)
        if heartbeat.controls is not None and state in {State.RUNNING, State.PREEMPTING}:
            session.flush()
            actions.apply_late_changes(session, experiment, heartbeat.controls, now)
    elif state is State.STOPPING:
        experiments.move(session, experiment, State.CANCELED, now, reason or "canceled on request")
    elif state is State.PAUSING and heartbeat.phase is Phase.PAUSED:
        experiments.move(session, experiment, State.PAUSED, now, reason or "paused on request")
    elif state in {State.RUNNING, State.PREEMPTING} and heartbeat.phase is Phase.PAUSED and heartbeat.blocked:
        experiments.block(session, experiment, now, reason or "its driver is blocked and gave no reason")
    elif state is State.PREEMPTING and heartbeat.phase is Phase.PAUSED:
        experiments.move(session, experiment, State.QUEUED, now, attempts.why_preempted(experiment))
    elif heartbeat.phase is Phase.FAILED:
        experiments.move(session, experiment, State.ERROR, now, reason or "the driver failed and gave no reason")
    else:
        why = f"the driver stopped: {reason}" if reason else "the driver stopped and gave no reason"
        attempts.count_failure(session, experiment, why, replacement)


def _check_winner(experiment: Experiment, heartbeat: Heartbeat) -> None:
    """Accuracies are shares in [0, 1]. The phase is not checked: a driver may send its last heartbeat before the final
    one with the winner."""
    winner = heartbeat.winner
    if winner is None:
        return
    values = {name: getattr(winner, name) for name in TEST_SHARES}
    objective = StoredSpec(experiment.spec).overview.objective
    if isinstance(objective, Objective) and objective.is_share:
        values["value"] = winner.value
    problems = [
        Problem(f"winner.{name}", "must be between 0 and 1", value)
        for name, value in values.items()
        if value is not None and not -ROUNDING <= value <= 1 + ROUNDING
    ]
    if problems:
        raise ValidationFailedError("; ".join(map(str, problems)), problems)


def _write_packing(experiment: Experiment, packing: Packing | None) -> None:
    """From the next pass on, its slots are such shares of a GPU. Ignored where its spec has decided the size of one."""
    if packing is None or experiment.packing is None:
        return
    measured = packing.model_dump(mode="json")
    if measured != experiment.packing:
        experiment.packing, experiment.gpus_per_trial = measured, packing.gpus_per_trial


def _write_trials(
    session: Session, experiment: Experiment, attempt: Attempt, updates: list[TrialUpdate], now: datetime
) -> None:
    known = _load_trials(session, experiment, [update.trial for update in updates])
    for update in updates:
        trial = known.get(update.trial)
        if trial is None:
            trial = known[update.trial] = Trial(experiment_id=experiment.id, trial=update.trial)
            session.add(trial)
        if update.epoch > (trial.epoch or 0):
            # Only failures in a row count. The number of epochs is finite, so alternating failures end, too.
            experiment.failures = 0
        trial.attempt = attempt.number
        trial.state = update.state
        trial.stop_reason = update.stop_reason
        trial.epoch = update.epoch
        trial.best_value, trial.best_epoch = finite_or_none(update.best_value), update.best_epoch
        trial.metrics = {name: finite_or_none(value) for name, value in update.metrics.items()}
        trial.parameters = {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in update.parameters.items()
        }
        if update.sample is not None and all(map(math.isfinite, update.sample.values())):
            trial.sample = update.sample
        trial.mlflow_run_id = update.mlflow_run_id or trial.mlflow_run_id
        trial.restarts, trial.error_kind, trial.slots = update.restarts, update.error_kind, update.slots
        trial.started_at, trial.ended_at = _timestamp(update.started_at), _timestamp(update.ended_at)
        trial.updated_at = now
    session.flush()


def _load_trials(session: Session, experiment: Experiment, numbers: list[int]) -> dict[int, Trial]:
    query = select(Trial).where(Trial.experiment_id == experiment.id, Trial.trial.in_(numbers))
    query = query.options(*WITHOUT_VALUES)  # which are replaced
    return {trial.trial: trial for trial in session.scalars(query)}


def _update_best(session: Session, experiment: Experiment, heartbeat: Heartbeat) -> None:
    if heartbeat.winner is not None:
        experiment.winner = json.loads(heartbeat.winner.model_dump_json())
    if heartbeat.winner is not None and not is_replicate(heartbeat.winner.trial):
        experiment.best_trial, experiment.best_value = heartbeat.winner.trial, finite_or_none(heartbeat.winner.value)
    elif heartbeat.trials or heartbeat.winner:  # a trial may be better now than the winner of an earlier end
        largest_first = StoredSpec(experiment.spec).overview.objective.sign > 0
        order = Trial.best_value.desc() if largest_first else Trial.best_value.asc()
        query = select(Trial.trial, Trial.best_value).where(
            Trial.experiment_id == experiment.id, Trial.best_value.is_not(None), Trial.trial < FIRST_REPLICATE
        )
        best = session.execute(query.order_by(order, Trial.trial).limit(1)).one_or_none()
        experiment.best_trial, experiment.best_value = best if best else (None, None)


def _timestamp(seconds: float | None) -> datetime | None:
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None
