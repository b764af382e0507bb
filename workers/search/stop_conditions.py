"""Stop conditions: why a search is over, and what the experiment becomes.

Owns the verdict on directives, goal and budget, and the sentence that explains it to the user: plain functions that
stop nothing themselves. It must not know Ray, the journal's file or MLflow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from search_spaces.controls import Controls
from search_spaces.objective import Objective
from search_spaces.phrases import counted
from search_spaces.protocol import Directives, ErrorKind, Phase, TrialState
from search_spaces.resources import Budget
from workers.state.slot_clock import SlotClock
from workers.state.trial_table import TrialTable


@dataclass(frozen=True)
class Outcome:
    """Why the search ended: `phase`, one of FINAL_PHASES, is what the experiment becomes.

    `blocked`: with phase paused, another attempt cannot succeed before a person acts. `error`: an error ended the
    attempt. `superseded`: a later attempt has taken over; nobody learns of this outcome. `trial` is the one that
    reached the goal, and `achieved` is its reason to end.
    """

    phase: Phase = Phase.COMPLETED
    reason: str = ""
    superseded: bool = False
    blocked: bool = False
    error: bool = False
    trial: int | None = None
    achieved: str = ""

    def of_trial(self, number: int) -> tuple[TrialState, str]:
        """State and reason with which a trial ends that has not ended by itself."""
        if number == self.trial:
            return TrialState.COMPLETED, self.achieved
        return TrialState.CANCELED, self.reason or "the search ended before this trial"


SUPERSEDED = Outcome(Phase.PAUSED, "a later attempt has taken over", superseded=True)


#: Of a trial that leaves its epoch because its slot is somebody else's.
RECLAIMED = Outcome(Phase.PAUSED, "its slot went to another experiment")
#: Of a trial that leaves its epoch because its node ends.
NODE_ENDS = Outcome(Phase.PAUSED, "its node ends")


def disk_full(detail: str) -> Outcome:
    return Outcome(Phase.PAUSED, f"the disk is full: {detail}", blocked=True, error=True)


#: Kinds of failures that every other trial would meet too, and how the reason of the experiment begins.
COMMON_CAUSES = {
    ErrorKind.DATA: "the data set cannot be used",
    ErrorKind.PLUGIN: "a class that the spec names cannot be imported",
}


def common_cause(kind: ErrorKind, reason: str, table: TrialTable) -> Outcome:
    """The outcome of a search in which a trial failed for one of COMMON_CAUSES.

    If a trial has a value already, it worked once: the search pauses, so that nothing of it is lost.
    """
    sentence = f"{COMMON_CAUSES[kind]}: {reason}"
    if table.best() is None:
        return Outcome(Phase.FAILED, sentence)
    return Outcome(Phase.PAUSED, sentence, blocked=True, error=True)


def no_node_left(kinds: set[ErrorKind], reason: str, table: TrialTable) -> Outcome:
    """The outcome of a search of which no node can run a trial, for `reason`; `kinds` are those of the nodes' failures.

    If none of them can load the data and no trial has a value, the experiment fails, as for data that are damaged.
    """
    sentence = f"no node can run a trial: {reason}"
    if kinds == {ErrorKind.DATA} and table.best() is None:
        return Outcome(Phase.FAILED, sentence)
    return Outcome(Phase.PAUSED, sentence, blocked=True, error=True)


def requested(directives: Directives, superseded: bool) -> Outcome | None:
    """The outcome that the service wants."""
    if superseded:
        return SUPERSEDED
    match directives.stop:
        case "cancel":
            return Outcome(Phase.CANCELED, "canceled on request")
        case "pause":
            return Outcome(Phase.PAUSED, directives.stop_reason or "paused on request")
        case None:
            return None


def reached(
    controls: Controls, objective: Objective, gpus_per_trial: float, table: TrialTable, clock: SlotClock
) -> Outcome | None:
    """The outcome of a search that has reached its goal or spent its budget."""
    return (
        _goal_reached(controls.goal, objective, table)
        or _time_spent(controls, gpus_per_trial, clock)
        or _failures_spent(controls.budget.failures, table)
    )


def is_stagnant(budget: Budget, table: TrialTable) -> bool:
    """Whether so many trials ended without an improvement that no further one is started."""
    limit = budget.trials_without_improvement
    return limit is not None and table.ended_without_improvement >= limit


def stagnation(budget: Budget, table: TrialTable) -> str:
    """Why a stagnant search starts no further trials."""
    limit, best = budget.trials_without_improvement, table.best()
    found = "none has a value" if best is None else f"trial {best.number} has {best.best_value:.4f}"
    ended = counted(table.ended_without_improvement, "trial")
    return f"budget.trials_without_improvement of {limit} is used up: no improvement in {ended}; {found}"


def exhausted(table: TrialTable, num_samples: int, why: str = "") -> Outcome:
    """The outcome of a search that nothing stopped. It pauses if trials are missing, and fails if none has a value.

    `why`: the reason for which it wanted no more than `num_samples` trials; empty if no more were asked for.
    """
    ended = sum(trial.ended for trial in table.trials.values())
    wanted = max(num_samples, len(table.searched())) + len(table.trials) - len(table.searched())
    if ended < wanted:
        trials = counted(wanted, "trial has", "trials have")
        return Outcome(Phase.PAUSED, f"the search was interrupted: {ended} of {trials} ended", error=True)
    if table.best() is None:
        if failures := table.failures():
            return Outcome(Phase.FAILED, f"no trial has a value; {failures}")
        none = f"no trial has a finite value: {_counts(table)}"
        return Outcome(Phase.COMPLETED, "; ".join(filter(None, (why, none))))
    return Outcome(reason=why)


def with_failures(outcome: Outcome, table: TrialTable) -> Outcome:
    """The outcome, whose reason also says how many trials failed, unless it has the error of the first one already."""
    failed = table.failed()
    if not failed or (failed[0].stop_reason or table.failures()) in outcome.reason:
        return outcome
    return replace(outcome, reason="; ".join(filter(None, (outcome.reason, table.failures()))))


def _goal_reached(goal: float | None, objective: Objective, table: TrialTable) -> Outcome | None:
    best = table.best() if goal is not None else None
    if goal is None or best is None or best.best_value is None or not objective.reached(best.best_value, goal):
        return None
    return Outcome(
        reason=f"goal {goal:g} reached: trial {best.number} has {best.best_value:.4f}",
        trial=best.number,
        achieved=f"goal {goal:g} reached at epoch {best.best_epoch}",
    )


def _time_spent(controls: Controls, gpus_per_trial: float, clock: SlotClock) -> Outcome | None:
    budget = controls.budget
    if budget.wall_clock and (spent := clock.elapsed_s()) >= budget.wall_clock:
        return Outcome(reason=f"budget.wall_clock is used up: {spent:.0f} of {budget.wall_clock:g} s")
    if budget.slot_hours or budget.gpu_hours:
        held = clock.slot_seconds() / 3600
        for name, limit, spent in (
            ("slot_hours", budget.slot_hours, held),
            ("gpu_hours", budget.gpu_hours, held * gpus_per_trial),
        ):
            if limit and spent >= limit:
                return Outcome(reason=f"budget.{name} is used up: {spent:.3g} of {limit:g} {name.replace('_', ' ')}")
    return None


def _failures_spent(limit: int | None, table: TrialTable) -> Outcome | None:
    if not limit or len(table.failed()) < limit:
        return None
    phase = Phase.FAILED if table.best() is None else Phase.COMPLETED
    return Outcome(phase, f"budget.failures of {limit} is used up: {table.failures()}")


def _counts(table: TrialTable) -> str:
    """How the trials ended, such as `3 diverged, 21 canceled`."""
    verbs = {TrialState.DIVERGED: "diverged", TrialState.CANCELED: "canceled"}
    numbers = {verb: sum(trial.state == state for trial in table.trials.values()) for state, verb in verbs.items()}
    return ", ".join(f"{number} {verb}" for verb, number in numbers.items() if number)
