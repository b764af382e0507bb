"""Trial table: what is known about the trials of one experiment, as a fold over its events.

Owns what follows from each event. It performs no I/O and reads no clock. It must not know the journal, Ray, MLflow or
the service.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

from search_spaces.early_stopping.base import LOSS
from search_spaces.objective import Objective
from search_spaces.phrases import counted
from search_spaces.protocol import (
    ENDED_TRIAL_STATES,
    IMPORTED_STATES,
    ErrorKind,
    Packing,
    TrialState,
    TrialUpdate,
    Winner,
)
from search_spaces.replicates import is_replicate
from search_spaces.upgrade import upgrade_sample
from workers.state.events import (
    AttemptStarted,
    DataAgreed,
    EpochFinished,
    Event,
    PackingMeasured,
    SearchWarmStarted,
    SlotReleased,
    SlotsReturned,
    TrialEnded,
    TrialEvent,
    TrialRetried,
    TrialSuggested,
    WinnerEvaluated,
)

CANCELED_BY_PERSON = "canceled on request"  # the reason of a trial's end, by which journals tell


@dataclass
class Trial:
    """One row. `curve` holds the objective of each epoch from 1 on, not finite where the network diverged; `losses` the
    validation losses, None where the journal has none.

    `stop_reason` says why it ended or why the stopping rule paused it; empty for all others.
    `source` is `<experiment>/<number>` of an imported trial. `slots`: that it holds while it runs; more than one if it
    needs a GPU for itself.
    """

    number: int
    sample: dict[str, float]
    parameters: dict[str, str | float]
    state: TrialState = TrialState.PENDING
    stop_reason: str = ""
    curve: list[float] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    best_value: float | None = None
    restarts: int = 0
    error_kind: ErrorKind | None = None
    slots: int = 1
    source: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    ended_in: int = 0  # the attempt

    @property
    def epoch(self) -> int:
        return len(self.curve)

    @property
    def best_epoch(self) -> int | None:
        """The first epoch (from 1) of the best value."""
        return None if self.best_value is None else self.curve.index(self.best_value) + 1

    @property
    def ended(self) -> bool:
        return self.state in ENDED_TRIAL_STATES

    @property
    def paused_by_rule(self) -> bool:
        """Whether the stopping rule paused it after its newest epoch, and it has not resumed since."""
        return self.state is TrialState.PAUSED and self.stop_reason != ""

    def end(self, state: TrialState, reason: str, at: float, attempt: int) -> None:
        self.state, self.stop_reason, self.ended_at, self.ended_in = state, reason, at, attempt

    def wait(self, state: TrialState, reason: str = "") -> None:
        """It has not ended, or no longer."""
        self.state, self.stop_reason, self.ended_at = state, reason, None

    def update(self) -> TrialUpdate:
        """The row as the service receives it."""
        return TrialUpdate(
            trial=self.number,
            state=self.state,
            stop_reason=self.stop_reason,
            epoch=self.epoch,
            best_value=self.best_value,
            best_epoch=self.best_epoch,
            metrics={name: value if math.isfinite(value) else None for name, value in self.metrics.items()},
            parameters=self.parameters,
            sample=self.sample,
            restarts=self.restarts,
            error_kind=self.error_kind,
            slots=self.slots,
            started_at=self.started_at,
            ended_at=self.ended_at,
        )


class TrialTable:
    """`apply` folds one event in. Safe to read on the thread that applies; `Recorder` guards all others."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._before_start: dict[int, tuple[TrialState, str]] = {}
        self._order: list[tuple[int, int]] = []
        self._attempt = 0
        self._leader: Trial | None = None  # the first with the best value
        #: Trials that ended with a result, were not imported and did not lead, since the best value last improved.
        self.ended_without_improvement = 0
        self.trials: dict[int, Trial] = {}
        self.winner: Winner | None = None
        #: Hyperparameters of configurations from earlier experiments; None until it is recorded which they are.
        self.known: tuple[Mapping[str, Any], ...] | None = None
        #: Digests of the data that all trials must have; None until one has finished an epoch.
        self.data: Mapping[str, str] | None = None
        #: How many trials share a GPU; None unless it was measured.
        self.packing: Packing | None = None

    def searched(self) -> list[Trial]:
        """The trials of the search, without replicates."""
        return [trial for trial in self.trials.values() if not is_replicate(trial.number)]

    def best(self) -> Trial | None:
        """The trial of the search with the best value of the objective so far; the one with the lower number if values
        are equal."""
        sign = self._objective.sign
        rated = (trial for trial in self.searched() if trial.best_value is not None)
        return max(rated, key=lambda trial: (sign * (trial.best_value or 0.0), -trial.number), default=None)

    def history(self, skip: int = 0) -> Iterator[tuple[int, int, float]]:
        """Trial, epoch and objective of every finished epoch of the search after the first `skip`, in the order of
        their ends."""
        for number, epoch in self._order[skip:]:
            yield number, epoch, self.trials[number].curve[epoch - 1]

    def reports(self) -> Iterator[tuple[int, int, float, float | None]]:
        """What `history` has, and the validation loss, which is None where the journal has none."""
        for number, epoch, value in self.history():
            yield number, epoch, value, self.trials[number].losses[epoch - 1]

    def failed(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.state is TrialState.ERROR]

    def failures(self) -> str:
        """How many trials failed, and why the first did; empty if none did."""
        failed = self.failed()
        if not failed:
            return ""
        return f"{len(failed)} of {counted(len(self.trials), 'trial')} failed; the first: {failed[0].stop_reason}"

    def lost_to(self, attempt: int) -> list[Trial]:
        """Trials that failed up to this attempt, and those that it canceled because it failed itself."""
        return [
            trial
            for trial in self.trials.values()
            if (trial.state is TrialState.ERROR and trial.ended_in <= attempt)
            or (
                trial.state is TrialState.CANCELED
                and trial.ended_in == attempt
                and trial.stop_reason != CANCELED_BY_PERSON
            )
        ]

    def counts(self) -> Counter[TrialState]:
        """The number of trials of the search in each state."""
        return Counter(trial.state for trial in self.searched())

    def waits_alone(self, is_searching: bool) -> Trial | None:
        """The first trial that needs more than one slot and waits for them; None for none.

        One that the stopping rule paused waits for them once nothing else is left to be trained: no trial runs, waits
        for another reason or, while the search `is_searching`, is still to be proposed.
        """
        alone = [trial for trial in self.waiting() if trial.slots > 1]
        interrupted = next((trial for trial in alone if not trial.paused_by_rule), None)
        if interrupted or not alone or is_searching:
            return interrupted
        return alone[0] if all(trial.ended or trial.paused_by_rule for trial in self.trials.values()) else None

    def waiting(self) -> Iterator[Trial]:
        """Trials that were proposed, have not ended and hold no slot: first those that released one."""
        waiting = [trial for trial in self.trials.values() if trial.state in {TrialState.PAUSED, TrialState.PENDING}]
        return iter(sorted(waiting, key=lambda trial: trial.state != TrialState.PAUSED))

    def start(self, number: int) -> None:
        """A trial was handed out to be run. No event says so: after a crash, it was not."""
        trial = self.trials[number]
        self._before_start[number] = trial.state, trial.stop_reason
        trial.state, trial.stop_reason = TrialState.RUNNING, ""

    def stop(self, number: int, held_slot: bool) -> None:
        """A running trial runs no longer. One that never held a slot waits as it did before."""
        trial = self.trials[number]
        trial.state, trial.stop_reason = (TrialState.PAUSED, "") if held_slot else self._before_start[number]

    def apply(self, event: Event) -> None:
        """Fold one event in."""
        match event:
            case TrialSuggested():
                self.trials[event.trial] = Trial(
                    event.trial,
                    upgrade_sample(event.sample),
                    upgrade_sample(event.parameters),
                    source=event.source or "",
                )
            case EpochFinished():
                self._finish_epoch(self.trials[event.trial], event)
            case TrialEnded():
                trial = self.trials[event.trial]
                self._end(trial, event.state, event.reason, event)
                trial.error_kind = event.kind or trial.error_kind
            case TrialRetried():
                trial = self.trials[event.trial]
                trial.restarts, trial.error_kind = event.restarts, event.kind
                trial.slots = event.slots or trial.slots
                trial.wait(TrialState.PENDING)
            case SlotReleased():
                self.trials[event.trial].wait(TrialState.PAUSED, event.reason or "")
            case WinnerEvaluated():
                self.winner = event.winner
            case AttemptStarted():
                self._attempt = event.number
            case SearchWarmStarted():
                self.known = tuple(upgrade_sample(one["parameters"]) for one in event.configurations)
            case DataAgreed():
                self.data = self.data or event.digests
            case PackingMeasured():
                self.packing = event.packing
            case SlotsReturned():
                pass
            case _:
                assert_never(event)

    def _finish_epoch(self, trial: Trial, event: EpochFinished) -> None:
        trial.metrics = dict(event.metrics)
        trial.started_at = trial.started_at or event.at - trial.metrics.get("epoch_seconds", 0.0)
        value = event.value_of(self._objective.metric)
        trial.curve.append(value)
        trial.losses.append(trial.metrics.get(LOSS))
        in_search = not is_replicate(trial.number)
        if in_search:
            self._order.append((trial.number, trial.epoch))
        if math.isfinite(value) and (trial.best_value is None or self._objective.is_better(value, trial.best_value)):
            trial.best_value = value
            if in_search and (self._leader is None or self._objective.is_better(value, self._leader.best_value or 0.0)):
                self._leader, self.ended_without_improvement = trial, 0
        trial.stop_reason = ""
        if event.state is not None:
            self._end(trial, event.state, event.reason, event)

    def _end(self, trial: Trial, state: TrialState, reason: str, event: TrialEvent) -> None:
        trial.end(state, reason, event.at, self._attempt)
        if is_replicate(trial.number):
            return
        if state in IMPORTED_STATES and not trial.source and trial is not self._leader:
            self.ended_without_improvement += 1
