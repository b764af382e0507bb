"""Trial table: what is known of the trials of one experiment, as a fold over the journal's entries.

Owns the meaning of the entries and the table that follows from them; it performs no I/O and reads no clock. It must
not know the journal's file, Ray, MLflow or the service.

    suggested  trial, sample, parameters       a configuration was proposed
    epoch      trial, epoch, metrics           an epoch was finished; `state` and `reason` if it was the last
    ended      trial, state, reason            a trial ended between epochs; `kind` if it failed
    retried    trial, kind, reason, restarts   a trial failed and will be restarted
    released   trial                           a trial released its slot: it is PAUSED until it is resumed
    attempt    number                          a driver started; the first entry of each driver
    winner     the winner's test metrics

Entries of a trial carry `held_s`, the seconds for which it has held a slot; those of an imported trial carry
`source` instead, which tells where it was trained. Each carries `at`, in Unix seconds that never decrease.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from search_spaces.experiment import Objective
from search_spaces.protocol import ENDED_TRIAL_STATES, ErrorKind, TrialState, TrialUpdate, Winner
from search_spaces.upgrade import upgrade_sample
from workers.state.journal import Entry


@dataclass
class Trial:
    """One row. `curve` holds the objective of each epoch from 1 on, not finite where the network diverged.

    `source` is `<experiment>/<number>` of an imported trial.
    """

    number: int
    sample: dict[str, float]
    parameters: dict[str, str | float]
    state: TrialState = TrialState.PENDING
    stop_reason: str = ""
    curve: list[float] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    best_value: float | None = None
    restarts: int = 0
    error_kind: ErrorKind | None = None
    source: str = ""
    started_at: float | None = None
    ended_at: float | None = None

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
            started_at=self.started_at,
            ended_at=self.ended_at,
        )


class TrialTable:
    """`apply` folds one entry in. Safe to read on the thread that applies; `Recorder` guards all others."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._state_before_start: dict[int, TrialState] = {}
        self._order: list[tuple[int, int]] = []
        self.trials: dict[int, Trial] = {}
        self.winner: Winner | None = None

    def best(self) -> Trial | None:
        """The trial with the best value of the objective so far; the one with the lower number if values are equal."""
        sign = self._objective.sign
        rated = (trial for trial in self.trials.values() if trial.best_value is not None)
        return max(rated, key=lambda trial: (sign * (trial.best_value or 0.0), -trial.number), default=None)

    def history(self) -> Iterator[tuple[int, int, float]]:
        """Trial, epoch and objective of every finished epoch, in the order in which they were finished."""
        for number, epoch in self._order:
            yield number, epoch, self.trials[number].curve[epoch - 1]

    def counts(self) -> Counter[TrialState]:
        return Counter(trial.state for trial in self.trials.values())

    def waiting(self) -> Iterator[Trial]:
        """Trials that were proposed, have not ended and hold no slot: first those that released one."""
        waiting = [trial for trial in self.trials.values() if trial.state in {TrialState.PAUSED, TrialState.PENDING}]
        return iter(sorted(waiting, key=lambda trial: trial.state != TrialState.PAUSED))

    def start(self, number: int) -> None:
        """A trial was handed out to be run. No entry says so: after a crash, it was not."""
        self._state_before_start[number] = self.trials[number].state
        self.trials[number].state = TrialState.RUNNING

    def stop(self, number: int, held_slot: bool) -> None:
        """A running trial runs no longer. One that never held a slot waits as it did before."""
        self.trials[number].state = TrialState.PAUSED if held_slot else self._state_before_start[number]

    def apply(self, entry: Entry) -> int | None:
        """Fold one entry in. Returns the number of the trial that it is about."""
        if entry["event"] == "winner":
            self.winner = Winner.model_validate(entry)
        if "trial" not in entry or entry["event"] == "winner":
            return None
        number: int = entry["trial"]
        if entry["event"] == "suggested":
            self.trials[number] = Trial(
                number,
                upgrade_sample(entry["sample"]),
                upgrade_sample(entry["parameters"]),
                source=entry.get("source", ""),
            )
        trial = self.trials[number]
        match entry["event"]:
            case "epoch":
                self._apply_epoch(trial, entry)
            case "ended":
                self._end(trial, entry)
            case "retried":
                trial.restarts, trial.error_kind = entry["restarts"], ErrorKind(entry["kind"])
                trial.state = TrialState.PENDING
            case "released":
                trial.state = TrialState.PAUSED
        return number

    def _apply_epoch(self, trial: Trial, entry: Entry) -> None:
        trial.metrics = entry["metrics"]
        trial.started_at = trial.started_at or entry["at"] - trial.metrics.get("epoch_seconds", 0.0)
        value = trial.metrics.get(self._objective.metric, math.nan)
        if entry.get("state") == TrialState.DIVERGED:
            value = math.nan  # whatever the value: its weights are lost
        trial.curve.append(value)
        self._order.append((trial.number, trial.epoch))
        best = trial.best_value
        if math.isfinite(value) and (best is None or self._objective.is_better(value, best)):
            trial.best_value = value
        if "state" in entry:
            self._end(trial, entry)

    def _end(self, trial: Trial, entry: Entry) -> None:
        trial.state = TrialState(entry["state"])
        trial.stop_reason = entry["reason"]
        trial.ended_at = entry["at"]
        trial.error_kind = ErrorKind(entry["kind"]) if "kind" in entry else trial.error_kind
