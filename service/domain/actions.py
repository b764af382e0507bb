"""Changes: what a person may do to an experiment that exists.

Each function takes the experiment's row, locked for the transaction. Asking twice is asking once; what the
state forbids raises Conflict, and says what to do instead. It must not know HTTP, Ray or MLflow.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NoReturn

from sqlalchemy import select
from sqlalchemy.orm import Session

from search_spaces.controls import Controls
from search_spaces.problems import Problem, SpecError
from search_spaces.protocol import ENDED_TRIAL_STATES
from search_spaces.sampling import count_combinations
from search_spaces.stored import StoredSpec
from search_spaces.validation import validate
from service.contract.errors import ConflictError
from service.contract.states import ACTIVE, DRIVEN, ENDED, INACTIVE, State
from service.domain import continuation, experiments, merge_patch, trials
from service.domain.experiments import move
from service.store.models import Experiment, Trial

#: Controls that decide whether there is work left.
STOPPING_FIELDS = ("num_samples", "goal", "budget")


def pause(session: Session, experiment: Experiment, now: datetime) -> None:
    """Let go of the slots and keep what was reached: at once where no driver runs, else when its trials stopped."""
    state = State(experiment.state)
    if state in {State.PAUSED, State.PAUSING}:
        return
    if state is State.QUEUED:
        move(experiment, State.PAUSED, now, "paused on request")
    elif state is State.RUNNING:
        move(experiment, State.PAUSING, now, "pausing on request, waiting for its trials to stop")
    else:
        _refuse(experiment)


def resume(session: Session, experiment: Experiment, now: datetime) -> None:
    """Queue a paused or failed experiment again, in the place that its age gives it; a complete one if work is left,
    be it to measure its winner.
    """
    state = State(experiment.state)
    if state in {State.QUEUED, State.RUNNING}:
        return
    if state is State.PAUSING:
        raise ConflictError(f"experiment {experiment.id} is still pausing: wait until it is PAUSED, then resume it")
    if state is State.CANCELED:
        raise ConflictError(
            f"experiment {experiment.id} was canceled for good; `continue` makes a new one of it, which keeps "
            "what its trials have found"
        )
    if state is State.COMPLETED and not has_work_left(session, experiment):
        raise ConflictError(f"experiment {experiment.id} is complete: {_why_no_work_left(session, experiment)}")
    if state not in INACTIVE:
        _refuse(experiment)
    _requeue(session, experiment, now, "resumed on request")


def cancel(session: Session, experiment: Experiment, now: datetime) -> None:
    """End an experiment: at once where no driver runs, else when its trials have stopped."""
    state = State(experiment.state)
    if state in {State.CANCELED, State.STOPPING}:
        return
    if state in DRIVEN:
        move(experiment, State.STOPPING, now, "canceled on request, waiting for its trials to stop")
    elif state in {State.QUEUED, State.PAUSED}:
        move(experiment, State.CANCELED, now, "canceled on request")
        experiments.close_trials(session, experiment, now)
    else:
        _refuse(experiment)


def cancel_trial(session: Session, experiment: Experiment, number: int, now: datetime) -> Trial:
    """Ask for the end of one trial. The driver is told with its next heartbeat, or the next driver when it starts.

    Raises NotFoundError, and ConflictError when the trial has ended.
    """
    trial = trials.find(session, experiment.id, number)
    if trial.state in ENDED_TRIAL_STATES:
        why = f": {trial.stop_reason}" if trial.stop_reason else ""
        raise ConflictError(f"trial {number} of experiment {experiment.id} has ended already as {trial.state}{why}")
    if experiment.state not in {*ACTIVE, State.PAUSED}:
        _refuse(experiment)
    if trial.cancel_asked_at is None:
        trial.cancel_asked_at = now
        experiment.revision += 1
    return trial


def change(session: Session, experiment: Experiment, patch: dict[str, Any], now: datetime) -> list[str]:
    """Merge a patch (RFC 7396) into the controls. Raises SpecError with the problems of what comes of it.

    A complete experiment is queued again when one of LIMITS changed and there may be work left now; where there is
    none, the sentences that are given say why.
    """
    state = State(experiment.state)
    if state is State.DELETING:
        _refuse(experiment)
    if state is State.CANCELED:
        raise ConflictError(
            f"experiment {experiment.id} was canceled for good, nothing would follow from a change; "
            f"`rung continue {experiment.id} FIELD=VALUE` makes a new one of it, with what its trials have found"
        )
    before = experiments.controls_of(experiment)
    after = validate(merge_patch.merge(before.model_dump(mode="json"), patch), Controls)
    _check_num_samples(session, experiment, before, after)
    objective = StoredSpec(experiment.spec).objective
    if "goal" in patch and after.goal is not None and (rule := objective.rule_broken_by(after.goal)):
        raise SpecError([Problem("goal", rule, after.goal)])
    if after == before:
        return []
    experiment.controls = after.model_dump(mode="json")
    experiment.revision += 1
    return requeue_if_work_left(session, experiment, before, after, now) if state is State.COMPLETED else []


def apply_late_changes(session: Session, experiment: Experiment, obeyed: Controls, now: datetime) -> None:
    """Treat changes that came while the driver of a complete experiment was finishing as if they came now.

    `obeyed` are the controls under which its search ended. What forbids to go on becomes part of the reason: the last
    word of a driver is never refused for it.
    """
    try:
        requeue_if_work_left(session, experiment, obeyed, experiments.controls_of(experiment), now)
    except ConflictError as conflict:
        stays = f"it was changed while its driver finished, and stays complete: {conflict}"
        experiment.reason = f"{experiment.reason}; {stays}" if experiment.reason else stays


def archive(session: Session, experiment: Experiment, now: datetime) -> None:
    """Hide an experiment at rest from the lists."""
    if experiment.state not in INACTIVE:
        _refuse(experiment, "only what has ended or is paused can be archived")
    if experiment.archived_at is None:
        experiment.archived_at = now
        experiment.revision += 1


def unarchive(session: Session, experiment: Experiment, now: datetime) -> None:
    """Show it in the lists again."""
    if experiment.archived_at is not None:
        experiment.archived_at = None
        experiment.revision += 1


def delete(session: Session, experiment: Experiment, now: datetime) -> None:
    """Have an experiment at rest removed with its files, its runs and its models. Raises ConflictError also while a
    fork of it has yet to read its trials.
    """
    if experiment.state == State.DELETING:
        return
    if experiment.state not in INACTIVE:
        _refuse(experiment, "cancel it first; only what has ended or is paused can be deleted")
    _check_no_pending_import(session, experiment)
    move(experiment, State.DELETING, now, "its files, runs and models are being removed")


def requeue_if_work_left(
    session: Session, experiment: Experiment, before: Controls, after: Controls, now: datetime
) -> list[str]:
    """Queue a complete experiment again if one of LIMITS changed. Gives what keeps it from going on all the same."""
    changed = [name for name in STOPPING_FIELDS if getattr(after, name) != getattr(before, name)]
    if not changed:
        return []
    if not has_work_left(session, experiment):
        why = _why_no_work_left(session, experiment)
        return [f"{' and '.join(changed)} changed, but the experiment stays complete: {why}"]
    _requeue(session, experiment, now, f"queued again: {' and '.join(changed)} changed")
    return []


def _check_no_pending_import(session: Session, experiment: Experiment) -> None:
    """Raises ConflictError while a fork has yet to read the trials that it was counted with."""
    waiting = select(Experiment.id).where(Experiment.source_id == experiment.id, continuation.has_pending_import())
    fork = session.scalar(waiting.limit(1))
    if fork is not None:
        raise ConflictError(
            f"experiment {fork} continues from {experiment.id} and has not taken over its trials: cancel it first, or "
            "let it begin"
        )


def _requeue(session: Session, experiment: Experiment, now: datetime, reason: str) -> None:
    """Raises ConflictError where the trials that a fork was counted with would change before they are read."""
    _check_no_pending_import(session, experiment)
    continuation.check_source_unchanged(session, experiment)
    move(experiment, State.QUEUED, now, reason)
    experiment.failures, experiment.retry_at = 0, None  # a person has looked at it since


def has_work_left(session: Session, experiment: Experiment) -> bool:
    """Whether the best trial was not measured, or trials are left: what a budget still allows, the driver knows."""
    if experiment.best_trial is not None and (experiment.winner or {}).get("trial") != experiment.best_trial:
        return True
    controls = experiments.controls_of(experiment)
    return experiments.count_started(session, experiment) < controls.num_samples and not _reached(
        experiment, controls.goal
    )


def _why_no_work_left(session: Session, experiment: Experiment) -> str:
    controls = experiments.controls_of(experiment)
    if _reached(experiment, controls.goal):
        return f"its goal of {controls.goal:g} is reached; raise or remove it to go on"
    begun = experiments.count_started(session, experiment)
    return f"{begun} of {controls.num_samples} trials were run; raise num_samples to go on"


def _reached(experiment: Experiment, goal: float | None) -> bool:
    best = experiment.best_value
    if goal is None or best is None:
        return False
    return StoredSpec(experiment.spec).objective.reached(best, goal)


def _check_num_samples(session: Session, experiment: Experiment, before: Controls, after: Controls) -> None:
    if after.num_samples == before.num_samples:
        return
    begun = experiments.count_started(session, experiment)
    if after.num_samples < begun:
        rule = f"must be at least {begun}, the number of trials that were started"
        raise SpecError([Problem("num_samples", rule, after.num_samples)])
    if StoredSpec(experiment.spec).searcher.exhaustive:
        every = count_combinations(experiments.spec_of(experiment).search_space)
        if after.num_samples > every:
            rule = f"must be at most {every:g}, the number of combinations of the grid"
            raise SpecError([Problem("num_samples", rule, after.num_samples)])


def _refuse(experiment: Experiment, hint: str = "") -> NoReturn:
    """Say what the state is and what it forbids."""
    state = State(experiment.state)
    if state is State.DELETING:
        why = "is being deleted"
    elif state in ENDED:
        why = f"has ended already as {state}{': ' + experiment.reason if experiment.reason else ''}"
    elif state is State.STOPPING:
        why = "is being canceled"
    else:
        why = f"is {state}"
    raise ConflictError(f"experiment {experiment.id} {why}{'; ' + hint if hint else ''}")
