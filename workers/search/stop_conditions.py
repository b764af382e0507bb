"""Outcome: why a search is over, and what the experiment becomes.

Owns the verdict on orders, goal and budget, and the sentence that explains it: plain functions of what is
known, in which nothing is stopped. It must not know Ray, the journal's file or MLflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from search_spaces.controls import Controls
from search_spaces.experiment import Objective
from search_spaces.protocol import Directives, TrialState
from workers.state.recorder import Recorder
from workers.state.trial_table import Trial


@dataclass(frozen=True)
class Outcome:
    """Why the search ended: `phase` is what the experiment becomes.

    `blocked`: with phase paused, another attempt would fare no better before a person acts. `trial` is the one
    that reached the goal, and `achieved` says how.
    """

    phase: Literal["completed", "canceled", "paused", "failed", "fenced"] = "completed"
    reason: str = ""
    blocked: bool = False
    trial: int | None = None
    achieved: str = ""

    def of_trial(self, number: int) -> tuple[TrialState, str]:
        """State and reason with which a trial ends that has not ended by itself."""
        if number == self.trial:
            return TrialState.COMPLETED, self.achieved
        return TrialState.CANCELED, self.reason or "the search ended before it"


def missing_journal(folder: str, trials: int) -> Outcome:
    """Of a folder without a journal, though the service has heard of trials there."""
    said = f"no journal in {folder}, though {trials} trials are known: is it the right storage, and is it mounted?"
    return Outcome("paused", said, blocked=True)


def disk_full(what: str) -> Outcome:
    return Outcome("paused", f"the disk is full: {what}", blocked=True)


def requested(orders: Directives, fenced: bool) -> Outcome | None:
    """The ending that the service wants."""
    if fenced:
        return Outcome("fenced", "another attempt took over")
    if orders.stop:
        return Outcome("canceled" if orders.stop == "cancel" else "paused", f"{orders.stop} ordered")
    return None


def reached(controls: Controls, objective: Objective, gpus_per_trial: float, recorder: Recorder) -> Outcome | None:
    """The ending of a search that has reached its goal or spent its budget."""
    goal = controls.goal
    best = recorder.table.best() if goal is not None else None
    if (
        goal is not None
        and best is not None
        and best.best_value is not None
        and objective.reached(best.best_value, goal)
    ):
        return Outcome(
            reason=f"goal {goal:g} reached: trial {best.number} has {best.best_value:.4f}",
            trial=best.number,
            achieved=f"goal {goal:g} reached at epoch {best.best_epoch}",
        )
    budget = controls.budget
    if budget.wall_clock and (spent := recorder.clock.elapsed_s()) >= budget.wall_clock:
        return Outcome(reason=f"budget.wall_clock of {budget.wall_clock:g} s is spent: {spent:.0f} s have passed")
    if budget.slot_hours or budget.gpu_hours:
        held = recorder.clock.slot_seconds() / 3600
        for name, limit, spent in (
            ("slot_hours", budget.slot_hours, held),
            ("gpu_hours", budget.gpu_hours, held * gpus_per_trial),
        ):
            if limit and spent >= limit:
                return Outcome(reason=f"budget.{name} of {limit:g} is spent: all trials together held {spent:.3g}")
    if budget.failures:
        failed = _failed(recorder)
        if len(failed) >= budget.failures:
            said = f"budget.failures of {budget.failures} is spent: {len(failed)} trials failed"
            hopeless = recorder.table.best() is None
            return Outcome("failed" if hopeless else "completed", f"{said}; the first: {failed[0].stop_reason}")
    return None


def exhausted(recorder: Recorder, num_samples: int) -> Outcome:
    """How a search ends that nobody ended: a failure when no trial has a value, a pause when trials are missing."""
    ended = sum(trial.ended for trial in recorder.table.trials.values())
    wanted = max(num_samples, len(recorder.table.trials))
    if ended < wanted:
        return Outcome("paused", f"the search was interrupted: {ended} of {wanted} trials have ended")
    if recorder.table.best() is None:
        failed = _failed(recorder)
        if failed:
            said = f"no trial has a value and {len(failed)} failed; the first: {failed[0].stop_reason}"
            return Outcome("failed", said)
        return Outcome("completed", "no trial has a finite value: all diverged")
    return Outcome()


def _failed(recorder: Recorder) -> list[Trial]:
    return [trial for trial in recorder.table.trials.values() if trial.state == TrialState.ERROR]
