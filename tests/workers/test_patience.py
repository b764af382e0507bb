"""Patience: what raises or hangs is tried again, until it is final or a stop is ordered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from workers import patience
from workers.patience import Patience, Unheard


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"POLL_S": 0.01, "ORDERED_S": 0.1, "QUIET_S": 0.05}.items():
        monkeypatch.setattr(patience, name, seconds)


class World:
    """What the driver knows while it waits."""

    def __init__(self) -> None:
        self.ordered = False
        self.answered_at = float("-inf")
        self.said: list[str] = []

    def patience(self, on_wait: Callable[[str], None] | None = None) -> Patience:
        def note(why: str) -> None:
            if self.said[-1:] != [why]:
                self.said.append(why)
            if on_wait:
                on_wait(why)

        def worth_s(error: Exception) -> float:
            return {PermissionError: 0.0, ValueError: 0.05}.get(type(error), 3600.0)

        return Patience(lambda: self.ordered, lambda: self.answered_at, note, worth_s)


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = iter(range(times))

    def action() -> str:
        if next(left, None) is not None:
            raise error
        return "done"

    return action


def test_what_works_at_once_says_nothing_of_waiting() -> None:
    world = World()
    assert world.patience().until(lambda: 3) == 3
    assert world.said == [""]


def test_an_outage_is_waited_for_and_told() -> None:
    world = World()
    assert world.patience().until(failing(3, ConnectionError("refused"))) == "done"
    assert world.said == ["waiting for MLflow: ConnectionError('refused')", ""]


def test_what_is_final_is_raised_at_once() -> None:
    calls: list[int] = []

    def action() -> None:
        calls.append(1)
        raise PermissionError("never")

    with pytest.raises(PermissionError, match="never"):
        World().patience().until(action)
    assert calls == [1]


def test_an_order_is_heard_while_a_call_hangs() -> None:
    world, release = World(), threading.Event()

    def order(why: str) -> None:
        world.ordered = why == "waiting for MLflow, which does not answer"

    with pytest.raises(Unheard, match="kept in the journal"):
        world.patience(order).until(release.wait)
    release.set()


def test_an_order_is_heard_between_failures() -> None:
    world = World()
    world.ordered = True
    endless: Any = failing(10**9, ConnectionError("refused"))
    with pytest.raises(Unheard):
        world.patience().until(endless)


def test_an_order_lets_mlflow_finish_what_it_is_busy_with() -> None:
    """A cancelled experiment's last entries take a while; MLflow takes one after the other."""
    world = World()
    world.ordered = True

    def slow() -> str:
        until = time.monotonic() + 3 * patience.ORDERED_S
        while time.monotonic() < until:
            world.answered_at = time.monotonic()
            threading.Event().wait(0.005)
        return "done"

    assert world.patience().until(slow) == "done"


def test_it_waits_as_long_as_the_error_is_worth() -> None:
    with pytest.raises(Unheard, match=r"did not take it for 0\.05 s, the journal keeps it: ValueError"):
        World().patience().until(failing(10**9, ValueError("no such model")))


def test_it_does_not_hang_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "AWAY_S", 0.05)
    release = threading.Event()
    with pytest.raises(Unheard):
        World().patience().until(release.wait)
    release.set()
