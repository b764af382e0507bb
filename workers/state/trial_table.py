"""Progress: the trials of one experiment as a fold over the journal's entries.

Owns the meaning of the entries and the table of trials that follows from them. Entries are recorded
through it, so that file and table never differ. It must not know Ray, MLflow or the service.

    suggested  trial, sample, parameters       a configuration was proposed
    epoch      trial, epoch, metrics           an epoch was finished; `state` and `reason` where it was the last
    ended      trial, state, reason            a trial ended between epochs; `kind` where it failed
    retried    trial, kind, reason, restarts   a trial failed and will be tried again
    released   trial                           a trial gave its slot back: it is PAUSED until it is taken up again
    attempt    number                          a driver took the experiment up; the first entry of each
    winner     the finalist's test figures

Entries of a trial carry `held_s`, the seconds for which it has held a slot; those of a trial that was taken
over carry `source` instead, where it was trained. Each carries `at`, in Unix seconds that never go back.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from search_spaces.experiment import Objective
from search_spaces.protocol import ENDED_TRIAL_STATES, ErrorKind, TrialState, TrialUpdate, Winner
from search_spaces.sampling import Sample
from workers.state import journal
from workers.state.journal import Entry, Journal

#: Entries that survive a power failure: checkpoints do, and none may be ahead of the epochs that the journal has.
LASTING = frozenset({"epoch", "ended", "winner"})


@dataclass
class Trial:
    """One row. `curve` holds the objective of each epoch from 1 on, not finite where the network diverged.

    `held_s` is what the journal knows; `source` is `<experiment>/<number>` of a trial that was taken over.
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
    held_s: float = 0.0
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


class Gap(Exception):  # noqa: N818 - a state of the trial; nothing is wrong with the call
    """A trial tells of an epoch, and the one before it was never told."""


class Progress:
    """The table and its journal. All methods may be called from any thread.

    `clock` is asked once: a clock that is set while the driver runs changes no time, and none is before those
    that the journal has.
    """

    def __init__(
        self,
        path: Path,
        objective: Objective,
        attempt: int = 1,
        clock: Callable[[], float] = time.time,
        stopwatch: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objective = objective
        self._stopwatch = stopwatch
        self._holding: dict[int, float] = {}
        self._waited_as: dict[int, TrialState] = {}
        self._lock = threading.RLock()
        self._changed: set[int] = set()
        self._order: list[tuple[int, int]] = []
        self.trials: dict[int, Trial] = {}
        self.winner: Winner | None = None
        self._begun = False  # whether a trial has held a slot, in any attempt
        self._elapsed_s = 0.0
        self._last_at = 0.0
        self._journal = Journal(path, attempt)
        self._opened = stopwatch()
        # First, so that whatever an earlier driver adds from now on is void, and all before it is read here.
        try:
            self._journal.append({"at": clock(), "event": "attempt", "number": attempt})
        except BaseException:
            self._journal.close()
            raise
        for entry in journal.entries(path):
            self._apply(entry)
        self._opened_at = self._last_at

    def suggested(self, number: int, sample: Sample, parameters: Mapping[str, str | float]) -> None:
        self._record({"event": "suggested", "trial": number, "sample": dict(sample), "parameters": dict(parameters)})

    def taken_over(self, entries: Iterable[Entry]) -> None:
        """Trials of another experiment, as their entries: all of them or, after a crash, none."""
        whole = list(entries)
        with self._lock:
            self._journal.append_all(whole)
            for entry in whole:
                self._apply(entry)

    def started(self, number: int) -> None:
        """A trial was handed out to be run. Not journaled: after a crash it is not."""
        with self._lock:
            self._waited_as[number] = self.trials[number].state
            self.trials[number].state = TrialState.RUNNING
            self._changed.add(number)

    def took_slot(self, number: int) -> None:
        """A trial's process is up: it holds its slot from now on, until it ends, fails or is released."""
        with self._lock:
            trial, now = self.trials[number], self._now()
            self._holding.setdefault(number, self._stopwatch())
            trial.started_at = trial.started_at or now
            self._changed.add(number)
            if not self._begun:
                self._begun, self._last_at = True, now

    def epoch(
        self, number: int, epoch: int, metrics: Mapping[str, float], outcome: tuple[TrialState, str] | None = None
    ) -> bool:
        """An epoch (from 1) was finished, and with `outcome` the trial.

        False, and nothing recorded, for an epoch that was recorded before or of a trial that had ended. Raises Gap.
        """
        with self._lock:
            known = self.trials[number].epoch
            if self.trials[number].ended or epoch <= known:
                return False
            if epoch > known + 1:
                raise Gap(f"trial {number} tells of epoch {epoch}, and epoch {known + 1} was never told")
            entry: Entry = {"event": "epoch", "trial": number, "epoch": epoch, "metrics": dict(metrics)}
            if outcome:
                entry |= {"state": outcome[0], "reason": outcome[1]}
            self._record(entry)
            return True

    def ended(self, number: int, state: TrialState, reason: str, kind: ErrorKind | None = None) -> None:
        """A trial ended between epochs, with ERROR for a failure of a `kind`. Does nothing for one that had ended."""
        with self._lock:
            if not self.trials[number].ended:
                entry: Entry = {"event": "ended", "trial": number, "state": state, "reason": reason}
                self._record(entry | ({"kind": kind} if kind else {}))

    def retried(self, number: int, kind: ErrorKind, reason: str) -> None:
        """A trial failed, and waits to be tried again. Does nothing for one that had ended."""
        with self._lock:
            if not self.trials[number].ended:
                restarts = self.trials[number].restarts + 1
                self._record(
                    {"event": "retried", "trial": number, "kind": kind, "reason": reason, "restarts": restarts}
                )

    def won(self, winner: Winner) -> None:
        self._record({"event": "winner", **winner.model_dump(mode="json")})

    def released(self, number: int, journaled: bool = True) -> None:
        """A trial gave its slot back without ending: it is PAUSED. One that had none yet waits as it did before.

        A driver that was given up must not write: it passes `journaled=False`.
        """
        with self._lock:
            trial, held = self.trials[number], number in self._holding
            if trial.state != TrialState.RUNNING:
                return
            trial.state = TrialState.PAUSED if held else self._waited_as[number]  # even where no journal can be written
            self._changed.add(number)
            if held and journaled:
                self._record({"event": "released", "trial": number})

    def make_way(self) -> None:
        """Raise Overtaken where another attempt goes on: for what touches a trial's folder and needs no entry."""
        self._journal.make_way()

    def close(self) -> None:
        self._journal.close()

    def best(self) -> Trial | None:
        """The trial with the best value of the objective so far; the earlier one of equals."""
        sign = self._objective.sign
        with self._lock:
            rated = [trial for trial in self.trials.values() if trial.best_value is not None]
        return max(rated, key=lambda trial: (sign * (trial.best_value or 0.0), -trial.number), default=None)

    def history(self) -> Iterator[tuple[int, int, float]]:
        """Trial, epoch and objective of every finished epoch, in the order in which they were finished."""
        for number, epoch in self._order:
            yield number, epoch, self.trials[number].curve[epoch - 1]

    def counts(self) -> Counter[TrialState]:
        with self._lock:
            return Counter(trial.state for trial in self.trials.values())

    def slot_seconds(self) -> float:
        """Seconds for which slots were held, by all trials together and up to now."""
        with self._lock:
            now = self._stopwatch()
            known = sum(trial.held_s for trial in self.trials.values())
            return known + sum(now - since for since in self._holding.values())

    def elapsed_s(self) -> float:
        """Seconds since the first trial began in which a driver ran, as far as the journal tells, and up to now."""
        with self._lock:
            return self._elapsed_s + (self._now() - self._last_at if self._begun else 0.0)

    def waiting(self) -> Iterator[Trial]:
        """Trials that were proposed, have not ended and hold no slot: first those that gave one back."""
        with self._lock:
            waiting = [
                trial for trial in self.trials.values() if trial.state in {TrialState.PAUSED, TrialState.PENDING}
            ]
        return iter(sorted(waiting, key=lambda trial: trial.state != TrialState.PAUSED))

    def take_changed(self) -> set[int]:
        """Numbers of the trials that changed since the last call."""
        with self._lock:
            changed, self._changed = self._changed, set()
            return changed

    def put_back(self, changed: set[int]) -> None:
        """Undo of `take_changed` for lines that could not be delivered."""
        with self._lock:
            self._changed |= changed

    def line(self, number: int) -> TrialUpdate:
        with self._lock:
            trial = self.trials[number]
            return TrialUpdate(
                trial=number,
                state=trial.state,
                stop_reason=trial.stop_reason,
                epoch=trial.epoch,
                best_value=trial.best_value,
                best_epoch=trial.best_epoch,
                metrics={name: value if math.isfinite(value) else None for name, value in trial.metrics.items()},
                parameters=trial.parameters,
                sample=trial.sample,
                restarts=trial.restarts,
                error_kind=trial.error_kind,
                started_at=trial.started_at,
                ended_at=trial.ended_at,
            )

    def _now(self) -> float:
        """Unix seconds."""
        return self._opened_at + self._stopwatch() - self._opened

    def _record(self, entry: Entry) -> None:
        with self._lock:
            entry = {"at": self._now(), **entry}
            number, now = int(entry.get("trial", -1)), self._stopwatch()
            if number in self._holding:
                entry["held_s"] = round(self.trials[number].held_s + now - self._holding[number], 3)
            self._journal.append(entry, sync=entry["event"] in LASTING)
            self._apply(entry)
            if number in self._holding:
                self._holding[number] = now
                if self.trials[number].state != TrialState.RUNNING:
                    del self._holding[number]

    def _apply(self, entry: Entry) -> None:
        if "source" not in entry:
            self._pass_time(entry)
        if entry["event"] == "winner":
            self.winner = Winner.model_validate(entry)
        if "trial" not in entry or entry["event"] == "winner":
            return
        number = entry["trial"]
        if entry["event"] == "suggested":
            self.trials[number] = Trial(number, entry["sample"], entry["parameters"], source=entry.get("source", ""))
        trial = self.trials[number]
        trial.held_s = entry.get("held_s", trial.held_s)
        self._changed.add(number)
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

    def _pass_time(self, entry: Entry) -> None:
        """What passed before an attempt, no driver ran; of a first trial only what it told of is known."""
        passed = max(0.0, entry["at"] - self._last_at)
        self._last_at += passed
        if entry["event"] == "attempt":
            return
        if self._begun:
            self._elapsed_s += passed
        elif "held_s" in entry:
            self._begun, self._elapsed_s = True, entry["held_s"]

    def _apply_epoch(self, trial: Trial, entry: Entry) -> None:
        trial.metrics = entry["metrics"]
        trial.started_at = trial.started_at or entry["at"] - trial.metrics.get("epoch_seconds", 0.0)
        value = trial.metrics.get(self._objective.metric, math.nan)
        if entry.get("state") == TrialState.DIVERGED:
            value = math.nan  # of weights that are lost, whatever their value
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
