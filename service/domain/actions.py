"""Actions: what a person may do to an experiment that exists.

Each function takes the experiment's row, locked for the transaction. An action that is repeated changes nothing. One
that the state forbids raises ConflictError, which says what to do instead. All have the signature that
`EditableHandle.apply` calls, also those that need no session or time. It must not know HTTP, Ray or MLflow.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime
from typing import Any, NoReturn

from sqlalchemy.orm import Session

from search_spaces.controls import SPEC_PATHS, Controls
from search_spaces.experiment import ExperimentSpec
from search_spaces.problems import Problem, SpecError
from search_spaces.protocol import ENDED_TRIAL_STATES
from search_spaces.sampling import count_combinations
from search_spaces.validation import validate
from service.contract.errors import ConflictError
from service.contract.states import ACTIVE, DRIVEN, ENDED, INACTIVE, State
from service.contract.webhook_events import Event
from service.domain import continuation, experiments, merge_patch, notifications, trials
from service.domain.experiments import move
from service.domain.outlook import Facts, load_facts, outlook
from service.store.models import Experiment, Trial

#: Controls that decide whether work is left.
STOPPING_FIELDS = ("num_samples", "goal", "budget")


def pause(session: Session, experiment: Experiment, now: datetime) -> None:
    """Free the slots and keep every epoch: at once where no driver runs, otherwise when the trials have stopped."""
    state = State(experiment.state)
    if state in {State.PAUSED, State.PAUSING}:
        return
    if state is State.QUEUED:
        move(session, experiment, State.PAUSED, now, "paused on request")
    elif state in {State.RUNNING, State.PREEMPTING}:
        move(session, experiment, State.PAUSING, now, "pausing on request, waiting for its trials to stop")
    else:
        _refuse(experiment)


def resume(session: Session, experiment: Experiment, now: datetime) -> None:
    """Queue a paused or failed experiment again, in the position that its age gives it.

    A completed one too, if work is left, which may be only the evaluation of its winner.
    """
    state = State(experiment.state)
    if state in {State.QUEUED, State.RUNNING, State.PREEMPTING}:
        return
    if state is State.PAUSING:
        raise ConflictError(f"experiment {experiment.id} is still pausing; wait until it is PAUSED, then resume it")
    if state is State.CANCELED:
        raise ConflictError(
            f"experiment {experiment.id} is canceled and cannot be resumed; "
            f"to start a new experiment from its trials: `rung continue {experiment.id}`"
        )
    if state is State.COMPLETED:
        prospect = outlook(load_facts(session, experiment))
        if not prospect.work_left:
            raise ConflictError(f"experiment {experiment.id} is completed: {prospect.obstacle}")
    if state not in INACTIVE:
        _refuse(experiment)
    _requeue(session, experiment, now, "resumed on request")


def cancel(session: Session, experiment: Experiment, now: datetime) -> None:
    """End an experiment: at once where no driver runs, otherwise when its trials have stopped."""
    state = State(experiment.state)
    if state in {State.CANCELED, State.STOPPING}:
        return
    if state in DRIVEN:
        move(session, experiment, State.STOPPING, now, "canceled on request, waiting for its trials to stop")
    elif state in {State.QUEUED, State.PAUSED}:
        move(session, experiment, State.CANCELED, now, "canceled on request")
    else:
        _refuse(experiment)


def cancel_trial(session: Session, experiment: Experiment, number: int, now: datetime) -> Trial:
    """Request the end of one trial. The response to the next heartbeat passes it on, or the next driver's launch.

    Raises NotFoundError, and ConflictError when the trial has ended.
    """
    trial = trials.find(session, experiment, number)
    if trial.state in ENDED_TRIAL_STATES:
        why = f": {trial.stop_reason}" if trial.stop_reason else ""
        raise ConflictError(f"trial {number} of experiment {experiment.id} has already ended as {trial.state}{why}")
    if experiment.state not in {*ACTIVE, State.PAUSED}:
        _refuse(experiment)
    if trial.cancel_asked_at is None:
        trial.cancel_asked_at = now
        experiment.revision += 1
    return trial


def change(session: Session, experiment: Experiment, patch: dict[str, Any], now: datetime) -> list[str]:
    """Merge a patch (RFC 7396) into the controls. Raises SpecError with every problem of the result.

    A completed experiment is queued again when one of STOPPING_FIELDS changed and work is left now. Where no work is
    left, the returned sentences say why.
    """
    state = State(experiment.state)
    if state is State.DELETING:
        _refuse(experiment)
    if state is State.CANCELED:
        raise ConflictError(
            f"experiment {experiment.id} is canceled and can no longer be changed; "
            f"to start a new experiment from its trials: `rung continue {experiment.id} FIELD=VALUE`"
        )
    if state is State.STOPPING:
        raise ConflictError(
            f"experiment {experiment.id} is being canceled and can no longer be changed; once it is CANCELED, "
            f"`rung continue {experiment.id} FIELD=VALUE` starts a new experiment from its trials"
        )
    facts = load_facts(session, experiment)
    before = facts.controls
    after, problems = _merged(before, patch)
    problems += _check_num_samples(experiment, facts, after)
    if "goal" in patch and after.goal is not None and (rule := facts.objective.rule_broken_by(after.goal)):
        problems.append(Problem("goal", rule, after.goal))
    if problems:
        raise SpecError(problems)
    if after == before:
        return []
    had_reached_goal = experiments.has_reached_goal(experiment)
    experiment.controls = after.model_dump(mode="json")
    experiment.revision += 1
    if state in ACTIVE and not had_reached_goal and experiments.has_reached_goal(experiment):
        notifications.publish(session, Event.GOAL_REACHED, experiment, now)
    if state is not State.COMPLETED:
        return []
    return _requeue_if_work_left(session, experiment, facts.under(after), before, now)


def apply_late_changes(session: Session, experiment: Experiment, obeyed: Controls, now: datetime) -> None:
    """Treat changes that arrived while the driver of a completed experiment finished as if they arrived now.

    `obeyed` are the controls under which the search ended. A final heartbeat must never be refused because of them, so
    what forbids to continue becomes part of the reason.
    """
    try:
        _requeue_if_work_left(session, experiment, load_facts(session, experiment), obeyed, now)
    except ConflictError as conflict:
        stays = f"it was changed while its driver finished, and stays completed: {conflict}"
        experiment.reason = f"{experiment.reason}; {stays}" if experiment.reason else stays


def archive(session: Session, experiment: Experiment, now: datetime) -> None:
    """Hide an inactive experiment from lists."""
    if experiment.state not in INACTIVE:
        _refuse(experiment, "only an experiment that has ended or is paused can be archived")
    if experiment.archived_at is None:
        experiment.archived_at = now
        experiment.revision += 1


def unarchive(session: Session, experiment: Experiment, now: datetime) -> None:
    """Show an archived experiment in lists again."""
    if experiment.archived_at is not None:
        experiment.archived_at = None
        experiment.revision += 1


def delete(session: Session, experiment: Experiment, now: datetime) -> None:
    """Have the service remove an inactive experiment with its files, runs and models.

    Raises ConflictError while it is active, and while a continuation of it has not imported its trials.
    """
    if experiment.state == State.DELETING:
        return
    if experiment.state not in INACTIVE:
        first = "wait until it is CANCELED" if experiment.state == State.STOPPING else "cancel it first"
        _refuse(experiment, f"{first}; only an experiment that has ended or is paused can be deleted")
    continuation.check_no_pending_import(session, experiment)
    move(session, experiment, State.DELETING, now, "its files, runs and models are being removed")


def _requeue_if_work_left(
    session: Session, experiment: Experiment, facts: Facts, before: Controls, now: datetime
) -> list[str]:
    """Queue a completed experiment again if one of STOPPING_FIELDS changed; where no work is left, say why."""
    changed = [name for name in STOPPING_FIELDS if getattr(facts.controls, name) != getattr(before, name)]
    if not changed:
        return []
    prospect = outlook(facts)
    if not prospect.work_left:
        return [f"{' and '.join(changed)} changed, but the experiment stays completed: {prospect.obstacle}"]
    _requeue(session, experiment, now, f"queued again: {' and '.join(changed)} changed")
    return []


def _requeue(session: Session, experiment: Experiment, now: datetime, reason: str) -> None:
    """Raises ConflictError where a continuation, or the source, still has trials to hand over unchanged."""
    continuation.check_no_pending_import(session, experiment)
    continuation.check_source_unchanged(session, experiment)
    move(session, experiment, State.QUEUED, now, reason)
    experiment.failures, experiment.retry_at = 0, None  # a person has looked at the cause since


def _merged(before: Controls, patch: dict[str, Any]) -> tuple[Controls, list[Problem]]:
    """The controls after a patch, whose invalid fields stay as before, and what is wrong with those fields."""
    old = before.model_dump(mode="json")
    new = merge_patch.merge(old, patch)
    try:
        return validate(new, Controls), []
    except SpecError as error:
        wrong = {re.split(r"[.\[]", problem.field)[0] for problem in error.problems}
        valid = {name: value for name, value in new.items() if name in old and name not in wrong}
        problems = [_named_as_control(_without_default(problem, patch)) for problem in error.problems]
        return validate({**old, **valid}, Controls), problems


def _without_default(problem: Problem, patch: dict[str, Any]) -> Problem:
    if problem.field in Controls.model_fields and patch.get(problem.field, problem) is None:  # RFC 7396 removes it
        return replace(problem, rule="must be a value, not null, because it has no default")
    return problem


def _named_as_control(problem: Problem) -> Problem:
    """A field of the spec that is no control: which name its control has, or that it stays as submitted."""
    if problem.field in Controls.model_fields or problem.field not in ExperimentSpec.model_fields:
        return problem
    inside = [name for name, path in SPEC_PATHS.items() if path.startswith(f"{problem.field}.")]
    use = f"; of it, only {' and '.join(inside)} can change" if inside else ""
    rule = f"cannot change after submission{use}; `rung change` changes {', '.join(Controls.model_fields)}"
    return replace(problem, rule=rule)


def _check_num_samples(experiment: Experiment, facts: Facts, after: Controls) -> list[Problem]:
    wanted = after.num_samples
    if wanted == facts.controls.num_samples:
        return []
    if wanted < facts.started:
        rule = f"must be at least {facts.started}, the number of trials that have started"
        return [Problem("num_samples", rule, wanted)]
    if not facts.exhaustive:
        return []
    combinations = count_combinations(experiments.spec_of(experiment).search_space)
    if wanted > combinations:
        rule = f"must be at most {combinations:g}, the number of combinations of the grid"
        return [Problem("num_samples", rule, wanted)]
    return []


def _refuse(experiment: Experiment, hint: str = "") -> NoReturn:
    """Report the state that forbids the action."""
    state = State(experiment.state)
    if state is State.DELETING:
        why = "is being deleted"
    elif state in ENDED:
        why = f"has already ended as {state}{': ' + experiment.reason if experiment.reason else ''}"
    elif state is State.STOPPING:
        why = "is being canceled"
    else:
        why = f"is {state}"
    raise ConflictError(f"experiment {experiment.id} {why}{'; ' + hint if hint else ''}")
