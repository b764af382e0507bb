"""The contract of a `StopSignal`. A backend's test inherits the class and overrides the fixture `open_signal`."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from search_spaces.storage.base import StopSignal

OpenSignal = Callable[[], StopSignal]


class StopSignalContract:
    @pytest.fixture
    def open_signal(self) -> OpenSignal:
        """Another process's view of the signal of one trial, each time it is called."""
        raise NotImplementedError

    def test_a_request_reaches_all_who_look(self, open_signal: OpenSignal) -> None:
        driver, worker, left_over = open_signal(), open_signal(), open_signal()
        assert not worker.asked()
        driver.ask()
        assert worker.asked()
        assert worker.asked(), "until it is cleared"
        assert left_over.asked()

    def test_an_earlier_request_is_not_for_those_who_come_later(self, open_signal: OpenSignal) -> None:
        driver, left_over = open_signal(), open_signal()
        driver.ask()
        newcomer = open_signal()
        assert not newcomer.asked()
        assert left_over.asked()
        driver.ask()
        assert newcomer.asked()

    def test_clear_affects_only_the_process_that_calls_it(self, open_signal: OpenSignal) -> None:
        driver, worker, left_over = open_signal(), open_signal(), open_signal()
        driver.ask()
        worker.clear()
        assert not worker.asked()
        assert left_over.asked()
        driver.ask()
        assert worker.asked()

    def test_two_drivers_that_ask_at_once_make_two_requests(
        self, open_signal: OpenSignal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second one asks in the middle of the first one's request, and the worker clears in between."""
        first, second, worker = open_signal(), open_signal(), open_signal()
        begun = False
        real = os.write

        def interrupted(file: int, data: bytes) -> int:
            nonlocal begun
            if not begun:
                begun = True
                second.ask()
                worker.clear()
            return real(file, data)

        monkeypatch.setattr(os, "write", interrupted)
        first.ask()
        assert worker.asked()
