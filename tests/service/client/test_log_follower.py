"""Which log is read next, and when following ends, over a source of logs held in memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from search_spaces.protocol import TrialState
from search_spaces.replicates import replicate_number
from service.client.log_follower import DONE, WAIT, LogFollower, Next, read_log
from service.contract.errors import NotFoundError, UnavailableError
from service.contract.schemas import AttemptView, ExperimentView, LogChunk, TrialView
from service.contract.states import State

ID = "k3v9q2mz"


class MemoryLogs:
    """An experiment with its drivers and trials. `before_next_get` happens before the next answer to `get`."""

    def __init__(self, *, running: bool = True) -> None:
        self.state = State.RUNNING if running else State.CANCELED
        self.drivers: dict[int, str | None] = {}
        self.ended: set[int] = set()
        self.trials: dict[int, TrialState] = {}
        self.trial_logs: dict[int, str] = {}
        self.before_next_get: Callable[[], object] = lambda: None

    def start_driver(self, log: str | None = None) -> None:
        self.drivers[len(self.drivers) + 1] = log

    def end_driver(self, state: State = State.QUEUED) -> None:
        self.ended.add(len(self.drivers))
        self.state = state

    def logs(
        self, experiment_id: str, *, trial: int | None = None, attempt: int | None = None, offset: int = 0
    ) -> LogChunk:
        if trial is not None:
            over = self.trials.get(trial, TrialState.RUNNING) is not TrialState.RUNNING
            return _chunk(self.trial_logs.get(trial), offset, over)
        number = attempt or len(self.drivers)
        return _chunk(self.drivers.get(number), offset, number in self.ended, number)

    def get(self, experiment_id: str) -> ExperimentView:
        happens, self.before_next_get = self.before_next_get, lambda: None
        happens()
        attempts = [
            AttemptView.model_construct(number=number, ended_at=1.0 if number in self.ended else None)
            for number in self.drivers
        ]
        return ExperimentView.model_construct(
            state=self.state, attempt=len(self.drivers), attempts=attempts, num_samples=20
        )

    def trial(self, experiment_id: str, trial: int) -> TrialView:
        if trial not in self.trials:
            raise NotFoundError("not begun")
        return TrialView.model_construct(state=self.trials[trial])


def _chunk(log: str | None, offset: int, over: bool, attempt: int | None = None) -> LogChunk:
    if log is None:
        raise NotFoundError("no log")
    return LogChunk(
        text=log[offset:], offset=offset, next_offset=len(log), size=len(log), complete=over, attempt=attempt
    )


def text(found: LogChunk | Next) -> str:
    assert isinstance(found, LogChunk)
    return found.text


def test_a_driver_is_awaited_and_read_as_it_writes() -> None:
    source = MemoryLogs()
    follower = LogFollower(source, ID)
    assert follower.poll() is WAIT
    source.start_driver()
    assert follower.poll() is WAIT
    source.drivers[1] = "begun\n"
    assert text(follower.poll()) == "begun\n"
    assert follower.poll() is WAIT
    source.drivers[1] = "begun\nended\n"
    source.end_driver(State.COMPLETED)
    assert text(follower.poll()) == "ended\n"
    assert follower.poll() is DONE


def test_the_driver_that_replaces_a_lost_one_is_followed() -> None:
    source = MemoryLogs()
    source.start_driver("lost\n")
    follower = LogFollower(source, ID)
    assert text(follower.poll()) == "lost\n"
    source.end_driver(State.QUEUED)
    assert follower.poll() is WAIT
    source.start_driver()
    source.state = State.RUNNING
    assert follower.poll() is WAIT
    source.drivers[2] = "the second\n"
    assert text(follower.poll()) == "the second\n"


def test_no_driver_is_skipped_that_came_and_ended_between_two_polls() -> None:
    source = MemoryLogs()
    source.start_driver("attempt 1\n")
    follower = LogFollower(source, ID)
    assert text(follower.poll()) == "attempt 1\n"
    for number in (2, 3):
        source.end_driver()
        source.start_driver(f"attempt {number}\n")
    source.end_driver(State.COMPLETED)
    assert [text(follower.poll()), text(follower.poll())] == ["attempt 2\n", "attempt 3\n"]
    assert follower.poll() is DONE


def test_a_driver_that_was_lost_before_it_wrote_is_passed_over() -> None:
    source = MemoryLogs()
    source.start_driver()
    follower = LogFollower(source, ID)
    assert follower.poll() is WAIT
    source.end_driver()
    source.start_driver("the second\n")
    source.state = State.RUNNING
    assert text(follower.poll()) == "the second\n"


def test_one_attempt_is_followed_to_its_end_only() -> None:
    source = MemoryLogs()
    source.start_driver("a\n")
    follower = LogFollower(source, ID, attempt=1)
    assert text(follower.poll()) == "a\n"
    source.end_driver()
    source.start_driver("b\n")
    assert follower.poll() is DONE
    with pytest.raises(NotFoundError):
        LogFollower(source, ID, attempt=7).poll()


def test_a_trial_is_awaited_and_followed_to_its_end() -> None:
    source = MemoryLogs()
    follower = LogFollower(source, ID, trial=3)
    assert follower.poll() is WAIT
    source.trials[3] = TrialState.RUNNING
    assert follower.poll() is WAIT
    source.trial_logs[3] = "epoch 1\n"
    assert text(follower.poll()) == "epoch 1\n"
    source.trials[3] = TrialState.COMPLETED
    assert follower.poll() is DONE


def test_a_replicate_is_awaited_once_it_is_planned() -> None:
    """Its number is above those of all trials of the search."""
    source, number = MemoryLogs(), replicate_number(17, 0)
    with pytest.raises(NotFoundError):
        [LogFollower(source, ID, trial=number).poll() for _ in range(2)]
    source.trials[number] = TrialState.PENDING
    assert [LogFollower(source, ID, trial=number).poll() for _ in range(2)] == [WAIT, WAIT]


def test_a_trial_that_cannot_come_or_has_no_log_is_an_error() -> None:
    source = MemoryLogs()
    source.trials[0] = TrialState.COMPLETED  # imported from another experiment: it has no log of its own
    for trial in (0, 20):
        with pytest.raises(NotFoundError):
            LogFollower(source, ID, trial=trial).poll()


def test_what_began_and_ended_between_two_answers_is_read() -> None:
    source = MemoryLogs()
    follower = LogFollower(source, ID)

    def begin_and_end() -> None:
        source.start_driver("all of it\n")
        source.end_driver(State.COMPLETED)

    source.before_next_get = begin_and_end
    assert text(follower.poll()) == "all of it\n"
    assert follower.poll() is DONE

    ended = MemoryLogs()
    follower = LogFollower(ended, ID, trial=1)

    def write_and_end() -> None:
        ended.trials[1] = TrialState.COMPLETED
        ended.trial_logs[1] = "the only epoch\n"

    ended.before_next_get = write_and_end
    assert text(follower.poll()) == "the only epoch\n"


def test_an_experiment_that_ended_without_a_driver_is_an_error() -> None:
    with pytest.raises(NotFoundError):
        LogFollower(MemoryLogs(running=False), ID).poll()


def test_a_poll_that_failed_can_be_repeated() -> None:
    source = MemoryLogs()
    source.start_driver("text\n")
    source.end_driver(State.COMPLETED)
    follower = LogFollower(source, ID)
    assert text(follower.poll()) == "text\n"

    def fail() -> None:
        raise UnavailableError("the service restarts")

    source.before_next_get = fail
    with pytest.raises(UnavailableError):
        follower.poll()
    assert follower.poll() is DONE


def test_a_log_is_read_as_it_is_now() -> None:
    source = MemoryLogs()
    source.start_driver("so far\n")
    assert [chunk.text for chunk in read_log(source, ID, trial=None, attempt=None)] == ["so far\n"]
