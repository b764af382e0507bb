"""Progress: how far the trials have come, as MLflow's runs say it while the search runs.

Owns the best value of each trial and its state, folded from the journal's events. An event that is applied twice
changes nothing. It must not know MLflow's client, nor the journal's file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from search_spaces.objective import Objective
from search_spaces.protocol import ENDED_TRIAL_STATES, Tag, TrialState
from search_spaces.replicates import is_replicate
from workers.state.events import (
    EpochFinished,
    Event,
    SlotReleased,
    TrialEnded,
    TrialEvent,
    TrialRetried,
    TrialSuggested,
)
from workers.tracking.summary import best_metrics, best_tags, count_metrics

#: The state of a parent run whose search runs, in the word of the experiment's states.
RUNNING = "RUNNING"


@dataclass(frozen=True)
class Best:
    """The best value of a trial, and when and in which epoch (from 1) it was reached. `at` is in Unix seconds."""

    value: float
    epoch: int
    at: float


@dataclass(frozen=True)
class Standing:
    """What the parent run says: metrics with one step and one time (Unix seconds), and tags."""

    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    step: int
    at: float


class Progress:
    """`apply` folds events in. Reading is safe while nobody applies."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._best: dict[int, Best] = {}
        self._states: dict[int, TrialState] = {}
        self._at = 0.0
        self._ended = self._step = 0

    def apply(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, TrialEvent):
                self._ended -= self._states.get(event.trial) in ENDED_TRIAL_STATES
                self._states[event.trial] = state_after(event)
                self._ended += self._states[event.trial] in ENDED_TRIAL_STATES
                # Never falls, although trials that failed may be tried again: MLflow shows the largest step.
                self._step = max(self._step, self._ended)
                if isinstance(event, TrialSuggested):
                    self._best.pop(event.trial, None)
                self._at = max(self._at, event.at)
                self._keep_best(event.trial, self.best_after(event.trial, [event]))

    def state(self, number: int) -> TrialState | None:
        return self._states.get(number)

    def best_after(self, number: int, events: Sequence[TrialEvent]) -> Best | None:
        """The best of a trial in what was applied and in these events of it."""
        best = None if any(isinstance(event, TrialSuggested) for event in events) else self._best.get(number)
        for event in events:
            if isinstance(event, EpochFinished):
                value = event.value_of(self._objective.metric)
                if math.isfinite(value) and (best is None or self._objective.is_better(value, best.value)):
                    best = Best(value, event.epoch, event.at)
        return best

    def ended(self, number: int) -> bool:
        """Whether a trial has ended; one that is unknown counts as ended."""
        return self._states.get(number, TrialState.CANCELED) in ENDED_TRIAL_STATES

    def standing(self, runs: Mapping[int, str]) -> Standing:
        """What the parent run says now; `runs` are those of the trials. The step is the largest
        number of trials that had ended.

        There are no metrics before a trial has a value or has ended: MLflow's comparison of runs begins with the metric
        that a run had first, which is to be the best value.
        """
        sign = self._objective.sign
        searched = (each for each in self._best if not is_replicate(each))
        number = max(searched, key=lambda each: (sign * self._best[each].value, -each), default=None)
        metrics: dict[str, float] = {}
        tags: dict[str, str] = {Tag.STATE: RUNNING, Tag.REASON: ""}
        if number is not None:
            metrics = best_metrics(self._objective.metric, self._best[number].value, number)
            tags |= best_tags(number, runs.get(number))
        if metrics or self._step:
            states = (state for each, state in self._states.items() if not is_replicate(each))
            metrics |= count_metrics(Counter(states))
        return Standing(metrics, tags, self._step, self._at)

    def _keep_best(self, number: int, best: Best | None) -> None:
        if best is not None:
            self._best[number] = best


def state_after(event: TrialEvent) -> TrialState:
    """The state of a trial after one of its events. A trial is proposed when it can run, so it counts as running."""
    match event:
        case EpochFinished():
            return event.state or TrialState.RUNNING
        case TrialEnded():
            return event.state
        case SlotReleased():
            return TrialState.PAUSED
        case TrialSuggested() | TrialRetried():
            return TrialState.RUNNING
    raise TypeError(f"unknown event {event!r}")
