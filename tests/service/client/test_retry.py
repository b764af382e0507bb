"""Retrying while the service is unreachable, on a clock that only the test moves."""

from __future__ import annotations

import pytest

from service.client import UnreachableError
from service.client.retry import retry
from service.contract.errors import NotFoundError, UnavailableError


class Service:
    """Answers `done` after some failures, each of which takes `call_s`; pauses move the clock too."""

    def __init__(self, failures: int, call_s: float = 0.0, error: Exception | None = None) -> None:
        self.now, self.calls, self.pauses = 0.0, 0, list[float]()
        self._failures, self._call_s, self._error = failures, call_s, error or UnreachableError("no answer")

    def call(self) -> str:
        self.calls += 1
        if self.calls > self._failures:
            return "done"
        self.now += self._call_s
        raise self._error

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def retry(self, window_s: float) -> str:
        return retry(self.call, window_s, clock=lambda: self.now, sleep=self.sleep)


def test_an_answer_is_returned_without_a_pause() -> None:
    service = Service(failures=0)
    assert service.retry(30) == "done"
    assert service.pauses == []


def test_pauses_double_up_to_the_longest() -> None:
    service = Service(failures=6)
    assert service.retry(30) == "done"
    assert service.pauses == [0.25, 0.5, 1, 2, 2, 2]


def test_the_error_is_raised_when_the_window_has_passed() -> None:
    service = Service(failures=100)
    with pytest.raises(UnreachableError, match="no answer"):
        service.retry(5)
    assert service.now == 3.75  # the next pause would end after the window


def test_the_window_begins_with_the_first_failure_so_that_a_timeout_is_repeated() -> None:
    service = Service(failures=1, call_s=30)
    assert service.retry(30) == "done"
    assert service.calls == 2


def test_a_service_that_is_starting_is_retried_and_other_errors_are_not() -> None:
    assert Service(failures=1, error=UnavailableError("starting")).retry(5) == "done"
    refused = Service(failures=1, error=NotFoundError("no such experiment"))
    with pytest.raises(NotFoundError):
        refused.retry(5)
    assert refused.calls == 1
