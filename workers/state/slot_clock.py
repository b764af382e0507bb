"""Slot clock: how long trials have held slots, and for how long drivers have run the search.

Owns the two sums, from the journal's events and a stopwatch. It must not know what happens to a trial, nor where
events are stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from workers.state.events import AttemptStarted, Event, SlotsReturned, TrialEvent, TrialRetried


class SlotClock:
    """Fold the journal in with `apply`, then call `start`; from then on times are measured with `stopwatch`.

    The wall clock is not read: a clock that is set while the driver runs changes no time, and no time is before
    those that the journal has.
    """

    def __init__(self, stopwatch: Callable[[], float] = time.monotonic) -> None:
        self._stopwatch = stopwatch
        self._recorded_s: dict[int, float] = {}  # as the journal's events say
        self._holding: dict[int, float] = {}  # reading of the stopwatch up to which the slot's time is recorded
        self._slots: dict[int, int] = {}  # of trials that hold more than one at a time
        self._begun = False  # whether a trial has held a slot, in any attempt
        self._elapsed_s = 0.0
        self._last_at = 0.0
        self._opened_at = 0.0
        self._resting_since: float | None = None  # reading of `now`
        self._opened = stopwatch()

    def start(self) -> None:
        self._opened_at = self._last_at

    def now(self) -> float:
        """Unix seconds."""
        return self._opened_at + self._stopwatch() - self._opened

    def rest(self) -> None:
        """The search has no slot and no trial holds one: until SlotsReturned, no time passes."""
        if self._begun and self._resting_since is None:
            self._resting_since = self.now()

    def counted_s(self) -> float:
        """Seconds from the last event until the search rested."""
        until = self.now() if self._resting_since is None else self._resting_since
        return max(0.0, until - self._last_at)

    @property
    def is_resting(self) -> bool:
        return self._resting_since is not None

    def take(self, number: int) -> None:
        """A trial's process is up: the trial holds its slot from now on."""
        self._holding.setdefault(number, self._stopwatch())
        if not self._begun:
            self._begun, self._last_at = True, self.now()

    def release(self, number: int) -> None:
        """The trial holds no slot from the last event about it on."""
        self._holding.pop(number, None)

    def holds(self, number: int) -> bool:
        return number in self._holding

    def held_s(self, number: int) -> float:
        """Seconds for which a trial has held a slot; of several slots, those of all of them together."""
        since = self._holding.get(number)
        held_s = 0.0 if since is None else self._stopwatch() - since
        return self._recorded_s.get(number, 0.0) + held_s * self._slots.get(number, 1)

    def silent_s(self) -> dict[int, float]:
        """Seconds since the newest event of each trial that holds a slot, or since it took it."""
        now = self._stopwatch()
        return {number: now - since for number, since in self._holding.items()}

    def slot_seconds(self) -> float:
        """Seconds for which slots were held, by all trials together and up to now."""
        return sum(map(self.held_s, self._recorded_s.keys() | self._holding.keys()))

    def elapsed_s(self) -> float:
        """Seconds in which a driver ran since the first trial began, as far as the journal tells, and up to now."""
        return self._elapsed_s + (self.counted_s() if self._begun else 0.0)

    def apply(self, event: Event) -> None:
        """Fold one event in. Imported trials took no time here."""
        held_s = None
        if isinstance(event, TrialEvent):
            if event.source is not None:
                return
            held_s = event.held_s
            if held_s is not None:
                if event.trial in self._holding:
                    passed_s = held_s - self._recorded_s.get(event.trial, 0.0)
                    self._holding[event.trial] += passed_s / self._slots.get(event.trial, 1)
                self._recorded_s[event.trial] = held_s
            if isinstance(event, TrialRetried) and event.slots:
                self._slots[event.trial] = event.slots
        passed = max(0.0, event.at - self._last_at)
        self._last_at += passed
        if isinstance(event, AttemptStarted):
            return  # no driver ran in the time before it
        if isinstance(event, SlotsReturned):
            self._resting_since = None
            passed = min(passed, event.counted_s)
        if self._begun:
            self._elapsed_s += passed
        elif held_s is not None:
            self._begun, self._elapsed_s = True, held_s  # all that is known of the first trial
