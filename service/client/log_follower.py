"""Log follower: reads a log while it is written, and continues with the log of the next driver.

Owns which log is read next, and when nothing more will come. It knows only a source of logs: it does not wait, does not
retry, and must not know HTTP or terminals.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final, Protocol

from search_spaces.protocol import ENDED_TRIAL_STATES
from service.contract.errors import NotFoundError
from service.contract.schemas import ExperimentView, LogChunk, TrialView
from service.contract.states import ACTIVE


class LogSource(Protocol):
    """Where logs come from: the SDK's `Client`."""

    def logs(
        self, experiment_id: str, *, trial: int | None = None, attempt: int | None = None, offset: int = 0
    ) -> LogChunk:
        """A chunk of a log. Raises NotFoundError if the log does not exist yet."""

    def get(self, experiment_id: str) -> ExperimentView: ...

    def trial(self, experiment_id: str, trial: int) -> TrialView:
        """Raises NotFoundError if the trial has not begun."""


class Next(Enum):
    """What a poll found instead of a chunk."""

    WAIT = "nothing new yet: poll again later"
    DONE = "nothing more will come"


WAIT: Final = Next.WAIT
DONE: Final = Next.DONE


class LogFollower:
    """Follows the log of a trial, of one attempt, or of each driver of an experiment in turn.

    Call `poll` until it returns DONE. A poll that raises can be repeated: no chunk is left out.
    """

    def __init__(
        self, source: LogSource, experiment_id: str, *, trial: int | None = None, attempt: int | None = None
    ) -> None:
        self._source = source
        self._experiment_id = experiment_id
        self._trial = trial
        self._attempt = attempt
        self._reading = attempt  # the attempt whose log is read now; None for the newest, or for a trial's
        self._offset = 0
        self._has_read = False
        self._looked_again = False

    def poll(self) -> LogChunk | Next:
        """The next chunk, or WAIT, or DONE. Raises NotFoundError if there is no log and there will be none."""
        try:
            chunk = self._source.logs(
                self._experiment_id, trial=self._trial, attempt=self._reading, offset=self._offset
            )
        except NotFoundError as missing:
            return self._without_log(missing)
        if chunk.next_offset > self._offset:
            self._offset, self._reading, self._has_read = chunk.next_offset, chunk.attempt, True
            return chunk
        if not chunk.complete:
            return WAIT
        if self._trial is not None or self._attempt is not None:
            return DONE
        return self._after_driver(self._source.get(self._experiment_id))

    def _after_driver(self, view: ExperimentView) -> LogChunk | Next:
        """Continue with the driver that replaced the one whose log is complete."""
        if view.attempt <= (self._reading or 0):
            return WAIT if view.state in ACTIVE else DONE
        self._reading = self._reading + 1 if self._reading else view.attempt
        self._offset = 0
        return self.poll()

    def _without_log(self, missing: NotFoundError) -> LogChunk | Next:
        view = self._source.get(self._experiment_id)
        if self._follows_drivers and view.attempt > (self._reading or 0):
            return self._after_driver(view)
        if self._may_begin(view):
            return WAIT
        if self._has_read:
            return DONE
        if self._looked_again:
            raise missing
        self._looked_again = True  # it may have begun and ended between the two answers
        return self.poll()

    @property
    def _follows_drivers(self) -> bool:
        return self._trial is None and self._attempt is None

    def _may_begin(self, view: ExperimentView) -> bool:
        """Whether a log that does not exist may still be written."""
        if self._trial is not None:
            return view.state in ACTIVE and self._may_train(self._trial, view.num_samples)
        if self._attempt is not None:
            return any(attempt.number == self._attempt and attempt.ended_at is None for attempt in view.attempts)
        return view.state in ACTIVE

    def _may_train(self, trial: int, num_samples: int) -> bool:
        try:
            return self._source.trial(self._experiment_id, trial).state not in ENDED_TRIAL_STATES
        except NotFoundError:
            return trial < num_samples  # it was not proposed yet


def read_log(source: LogSource, experiment_id: str, *, trial: int | None, attempt: int | None) -> Iterator[LogChunk]:
    """The chunks of a log as it is now. Raises NotFoundError if it does not exist."""
    offset = 0
    while True:
        chunk = source.logs(experiment_id, trial=trial, attempt=attempt, offset=offset)
        if chunk.next_offset == offset:
            return
        yield chunk
        offset, attempt = chunk.next_offset, chunk.attempt
