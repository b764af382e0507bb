"""Recorder: the only writer of an experiment's journal and trial table, so that the two never differ.

Owns the order (an entry is journaled, then applied), the lock around both, and which trials changed since the
service was last told. It must not know Ray, MLflow or the service.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from search_spaces.experiment import Objective
from search_spaces.protocol import ErrorKind, TrialState, TrialUpdate, Winner
from search_spaces.sampling import Sample
from workers.state import journal
from workers.state.journal import Entry, Journal
from workers.state.slot_clock import SlotClock
from workers.state.trial_table import TrialTable

#: Entries that survive a power failure: checkpoints do, and none may be ahead of the epochs that the journal has.
SYNCED_EVENTS = frozenset({"epoch", "ended", "winner"})


class MissingEpochError(Exception):
    """A trial reports an epoch, but it never reported the epoch before it."""


class Recorder:
    """All methods may be called from any thread; `table` is for the thread that records.

    `clock` is read once; see `SlotClock`. Raises WriterFencedError and OSError, as all methods that record do.
    """

    def __init__(
        self,
        path: Path,
        objective: Objective,
        attempt: int = 1,
        clock: Callable[[], float] = time.time,
        stopwatch: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lock = threading.RLock()
        self._changed: set[int] = set()
        self.table = TrialTable(objective)
        self._journal = Journal(path, attempt)
        self.clock = SlotClock(stopwatch)
        # First, so that whatever an earlier driver adds from now on is void, and all before it is read here.
        try:
            self._journal.append({"at": clock(), "event": "attempt", "number": attempt})
        except BaseException:
            self._journal.close()
            raise
        for entry in journal.entries(path):
            self._apply(entry)
        self.clock.start()

    def record_suggestion(self, number: int, sample: Sample, parameters: Mapping[str, str | float]) -> None:
        self._record({"event": "suggested", "trial": number, "sample": dict(sample), "parameters": dict(parameters)})

    def record_import(self, entries: Iterable[Entry]) -> None:
        """Trials of another experiment, as their entries: all of them or, after a crash, none."""
        whole = list(entries)
        with self._lock:
            self._journal.append_all(whole)
            for entry in whole:
                self._apply(entry)

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
            entry: Entry = {"event": "epoch", "trial": number, "epoch": epoch, "metrics": dict(metrics)}
            if outcome:
                entry |= {"state": outcome[0], "reason": outcome[1]}
            self._record(entry)
            return True

    def record_end(self, number: int, state: TrialState, reason: str, kind: ErrorKind | None = None) -> None:
        """A trial ended between epochs, with ERROR for a failure of a `kind`. Does nothing for one that had ended."""
        with self._lock:
            if not self.table.trials[number].ended:
                entry: Entry = {"event": "ended", "trial": number, "state": state, "reason": reason}
                self._record(entry | ({"kind": kind} if kind else {}))

    def record_retry(self, number: int, kind: ErrorKind, reason: str) -> None:
        """A trial failed and waits to be restarted. Does nothing for one that had ended."""
        with self._lock:
            if not self.table.trials[number].ended:
                restarts = self.table.trials[number].restarts + 1
                self._record(
                    {"event": "retried", "trial": number, "kind": kind, "reason": reason, "restarts": restarts}
                )

    def record_winner(self, winner: Winner) -> None:
        self._record({"event": "winner", **winner.model_dump(mode="json")})

    def record_release(self, number: int, journaled: bool = True) -> None:
        """A trial released its slot without ending: it is PAUSED. One that had none yet waits as it did before.

        A superseded driver must not write: it passes `journaled=False`.
        """
        with self._lock:
            if self.table.trials[number].state != TrialState.RUNNING:
                return
            held = self.clock.holds(number)
            self.table.stop(number, held)  # even if the journal cannot be written
            self._changed.add(number)
            if held and journaled:
                self._record({"event": "released", "trial": number})

    def check_not_fenced(self) -> None:
        """Raise WriterFencedError if a later attempt has started. For changes of a folder that need no entry."""
        self._journal.check_not_fenced()

    def close(self) -> None:
        self._journal.close()

    def numbers(self) -> set[int]:
        """Numbers of the trials in the table."""
        with self._lock:
            return set(self.table.trials)

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

    def _record(self, entry: Entry) -> None:
        with self._lock:
            entry = {"at": self.clock.now(), **entry}
            number = int(entry.get("trial", -1))
            if self.clock.holds(number):
                entry["held_s"] = round(self.clock.held_s(number), 3)
            self._journal.append(entry, sync=entry["event"] in SYNCED_EVENTS)
            self._apply(entry)
            if self.clock.holds(number) and self.table.trials[number].state != TrialState.RUNNING:
                self.clock.release(number)

    def _apply(self, entry: Entry) -> None:
        self.clock.apply(entry)
        changed = self.table.apply(entry)
        if changed is not None:
            self._changed.add(changed)
