"""Recorder: the only writer of an experiment's journal and trial table, so that the two never differ.

Owns the order (an event is journaled, then applied), the lock around both, and which trials changed since the last
heartbeat. It must not know Ray, MLflow or the service.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from search_spaces.objective import Objective
from search_spaces.protocol import ErrorKind, Packing, TrialState, TrialUpdate, Winner
from search_spaces.sampling import Sample
from search_spaces.storage.base import JournalBackend
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
    decode_all,
    encode,
)
from workers.state.slot_clock import SlotClock
from workers.state.trial_table import TrialTable

#: Events that survive a power failure: checkpoints do, and none may be ahead of the epochs that the journal has.
SYNCED_EVENTS = EpochFinished | TrialEnded | WinnerEvaluated


class MissingEpochError(Exception):
    """A trial reports an epoch, but it never reported the epoch before it."""


class ForeignJournalError(Exception):
    """The journal has the trials of another experiment."""


class Recorder:
    """All methods may be called from any thread; `table` is for the thread that records.

    `clock` is read once; see `SlotClock`. `experiment` is the id of the journal's experiment, not checked if None.
    Raises WriterFencedError and OSError, as all methods that record do, and ForeignJournalError.
    """

    def __init__(
        self,
        journal: JournalBackend,
        objective: Objective,
        attempt: int = 1,
        clock: Callable[[], float] = time.time,
        stopwatch: Callable[[], float] = time.monotonic,
        experiment: str | None = None,
    ) -> None:
        self._lock = threading.RLock()
        self._changed: set[int] = set()
        self._objective = objective
        self.table = TrialTable(objective)
        self._writer = journal.open_writer(attempt)
        self.clock = SlotClock(stopwatch)
        try:
            # First, so that whatever an earlier driver adds from now on is void, and all before it is read here.
            self._writer.append(encode(AttemptStarted(at=clock(), number=attempt, experiment=experiment)))
            for event in decode_all(journal.entries()):
                if isinstance(event, AttemptStarted) and experiment and event.experiment not in (None, experiment):
                    raise ForeignJournalError(f"it is the journal of experiment {event.experiment}")
                self._apply(event)
        except BaseException:
            self._writer.close()
            raise
        self.clock.start()

    def record_suggestion(self, number: int, sample: Sample, parameters: Mapping[str, str | float]) -> None:
        with self._lock:
            now = self.clock.now()
            self._record(TrialSuggested(at=now, trial=number, sample=dict(sample), parameters=dict(parameters)))

    def record_import(self, events: Iterable[Event]) -> None:
        """Trials of another experiment, as their events: all of them or, after a crash, none.

        Raises what a table raises that cannot apply one of them; then nothing is recorded.
        """
        imported = list(events)
        rehearsal = TrialTable(self._objective)
        for event in imported:
            rehearsal.apply(event)
        with self._lock:
            self._writer.append_all([encode(event) for event in imported])
            for event in imported:
                self._apply(event)

    def record_warm_start(self, configurations: Iterable[Mapping[str, Any]]) -> None:
        """What the search takes from earlier experiments; see `SearchWarmStarted`."""
        with self._lock:
            self._record(SearchWarmStarted(at=self.clock.now(), configurations=list(configurations)))

    def record_data(self, digests: Mapping[str, str]) -> None:
        """What the data of a trial are that has finished an epoch. Does nothing where it is recorded."""
        with self._lock:
            if self.table.data is None:
                self._record(DataAgreed(at=self.clock.now(), digests=dict(digests)))

    def record_packing(self, packing: Packing) -> None:
        """How many trials share a GPU. Does nothing where it is recorded."""
        with self._lock:
            if self.table.packing is None:
                self._record(PackingMeasured(at=self.clock.now(), packing=packing))

    def mark_started(self, number: int) -> None:
        """A trial was handed out to be run. Not journaled: after a crash, it was not."""
        with self._lock:
            self.table.start(number)
            self._changed.add(number)

    def mark_slot_taken(self, number: int) -> None:
        """A trial's process is up: it holds its slot from now on, until it ends, fails or is released."""
        with self._lock:
            trial = self.table.trials[number]
            self.clock.take(number)
            trial.started_at = trial.started_at or self.clock.now()
            self._changed.add(number)

    def record_epoch(
        self, number: int, epoch: int, metrics: Mapping[str, float], outcome: tuple[TrialState, str] | None = None
    ) -> bool:
        """An epoch (from 1) was finished and, with `outcome`, the trial.

        Returns False, and records nothing, for an epoch that was recorded before or of a trial that had ended.
        Raises MissingEpochError.
        """
        with self._lock:
            known = self.table.trials[number].epoch
            if self.table.trials[number].ended or epoch <= known:
                return False
            if epoch > known + 1:
                raise MissingEpochError(f"trial {number} reports epoch {epoch}, but never reported epoch {known + 1}")
            state, reason = outcome or (None, "")
            self._record(
                EpochFinished(
                    at=self.clock.now(),
                    trial=number,
                    held_s=self._held_s(number),
                    epoch=epoch,
                    metrics=dict(metrics),
                    state=state,
                    reason=reason,
                )
            )
            return True

    def record_end(self, number: int, state: TrialState, reason: str, kind: ErrorKind | None = None) -> None:
        """A trial ended between epochs, with ERROR for a failure of a `kind`. Does nothing for one that had ended."""
        with self._lock:
            if not self.table.trials[number].ended:
                now, held_s = self.clock.now(), self._held_s(number)
                self._record(TrialEnded(at=now, trial=number, held_s=held_s, state=state, reason=reason, kind=kind))

    def record_retry(self, number: int, kind: ErrorKind, reason: str, slots: int | None = None) -> None:
        """A trial failed and waits to be restarted. With `slots`, it exceeded its share of a GPU and takes so many from
        now on, which does not count as a restart. Does nothing for one that had ended."""
        with self._lock:
            if not self.table.trials[number].ended:
                now, held_s = self.clock.now(), self._held_s(number)
                restarts = self.table.trials[number].restarts + (slots is None)
                self._record(
                    TrialRetried(
                        at=now, trial=number, held_s=held_s, kind=kind, reason=reason, restarts=restarts, slots=slots
                    )
                )

    def record_second_chance(self, attempt: int) -> int:
        """What ended because `attempt` failed waits again. Returns the number of trials.

        May be repeated: those that fail later are of a later attempt.
        """
        with self._lock:
            lost = self.table.lost_to(attempt)
            for trial in lost:
                now, held_s = self.clock.now(), self._held_s(trial.number)
                again: Event = SlotReleased(at=now, trial=trial.number, held_s=held_s)
                if trial.state is TrialState.ERROR:
                    kind, why = trial.error_kind or ErrorKind.CODE, trial.stop_reason
                    again = TrialRetried(at=now, trial=trial.number, held_s=held_s, kind=kind, reason=why, restarts=0)
                self._record(again)
            return len(lost)

    def record_winner(self, winner: Winner) -> None:
        with self._lock:
            self._record(WinnerEvaluated(at=self.clock.now(), winner=winner))

    def record_release(self, number: int, reason: str = "", journaled: bool = True) -> None:
        """A trial released its slot without ending: it is PAUSED. One that had none yet waits as it did before.

        `reason` is why the stopping rule paused it; empty for a trial that is interrupted.
        A superseded driver must not write: it passes `journaled=False`.
        """
        with self._lock:
            if self.table.trials[number].state != TrialState.RUNNING:
                return
            held = self.clock.holds(number)
            self.table.stop(number, held)  # even if the journal cannot be written
            self._changed.add(number)
            if held and journaled:
                now, held_s = self.clock.now(), self._held_s(number)
                self._record(SlotReleased(at=now, trial=number, held_s=held_s, reason=reason or None))

    def rest(self, resting: bool) -> None:
        """Whether the search has no slot and no trial holds one: no time of its budget passes then."""
        with self._lock:
            if resting:
                self.clock.rest()
            elif self.clock.is_resting:
                self._wake(self.clock.now())

    def check_not_fenced(self) -> None:
        """Raise WriterFencedError if a later attempt has started. For changes of a folder that need no entry."""
        self._writer.check_not_fenced()

    def close(self) -> None:
        self._writer.close()

    def numbers(self) -> set[int]:
        """Numbers of the trials in the table."""
        with self._lock:
            return set(self.table.trials)

    def silence(self) -> tuple[dict[int, float], float | None]:
        """Seconds since the newest event of each trial that holds a slot, and of the longest of the newest epochs of
        all trials, which is None while no epoch has ended."""
        with self._lock:
            epochs = (trial.metrics.get("epoch_seconds") for trial in self.table.trials.values() if not trial.source)
            return self.clock.silent_s(), max((seconds for seconds in epochs if seconds is not None), default=None)

    def packing(self) -> Packing | None:
        """How many trials share a GPU; None unless it was measured."""
        with self._lock:
            return self.table.packing

    def failures(self) -> str:
        """How many trials failed, and why the first did; empty if none did."""
        with self._lock:
            return self.table.failures()

    def take_changed(self) -> set[int]:
        """Numbers of the trials that changed since the last call."""
        with self._lock:
            changed, self._changed = self._changed, set()
            return changed

    def put_back(self, changed: set[int]) -> None:
        """Undo of `take_changed` for updates that could not be delivered."""
        with self._lock:
            self._changed |= changed

    def update_of(self, number: int) -> TrialUpdate:
        with self._lock:
            return self.table.trials[number].update()

    def _held_s(self, number: int) -> float | None:
        """What the event of a trial that holds a slot says about it."""
        return round(self.clock.held_s(number), 3) if self.clock.holds(number) else None

    def _wake(self, at: float) -> None:
        self._record(SlotsReturned(at=at, counted_s=round(self.clock.counted_s(), 3)))

    def _record(self, event: Event) -> None:
        if self.clock.is_resting and not isinstance(event, SlotsReturned):
            self._wake(event.at)
        self._writer.append(encode(event), sync=isinstance(event, SYNCED_EVENTS))
        self._apply(event)
        if isinstance(event, TrialEvent) and self.table.trials[event.trial].state != TrialState.RUNNING:
            self.clock.release(event.trial)

    def _apply(self, event: Event) -> None:
        self.clock.apply(event)
        self.table.apply(event)
        if isinstance(event, TrialEvent):
            self._changed.add(event.trial)
