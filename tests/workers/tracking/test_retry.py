"""Retrier: what raises or hangs is tried again, until it is final or a stop is ordered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import LaunchConfig
from workers.state.recorder import Recorder
from workers.tracking import retry
from workers.tracking.retry import DeliveryAbandonedError, Retrier
from workers.tracking.tracker import Tracker


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"POLL_S": 0.01, "STOP_GRACE_S": 0.1, "REPORT_AFTER_S": 0.05}.items():
        monkeypatch.setattr(retry, name, seconds)


class World:
    """What the driver knows while it waits."""

    def __init__(self) -> None:
        self.ordered = False
        self.answered_at = float("-inf")
        self.said: list[str] = []

    def retrier(self, on_wait: Callable[[str], None] | None = None) -> Retrier:
        def note(why: str) -> None:
            if self.said[-1:] != [why]:
                self.said.append(why)
            if on_wait:
                on_wait(why)

        def retry_window_s(error: Exception) -> float:
            return {PermissionError: 0.0, ValueError: 0.05}.get(type(error), 3600.0)

        return Retrier(lambda: self.ordered, lambda: self.answered_at, note, retry_window_s)


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = iter(range(times))

    def action() -> str:
        if next(left, None) is not None:
            raise error
        return "done"

    return action


def test_what_works_at_once_says_nothing_of_waiting() -> None:
    world = World()
    assert world.retrier().call(lambda: 3) == 3
    assert world.said == [""]


def test_an_outage_is_waited_for_and_told() -> None:
    world = World()
    assert world.retrier().call(failing(3, ConnectionError("refused"))) == "done"
    assert world.said == ["waiting for MLflow: ConnectionError('refused')", ""]


def test_what_is_final_is_raised_at_once() -> None:
    calls: list[int] = []

    def action() -> None:
        calls.append(1)
        raise PermissionError("never")

    with pytest.raises(PermissionError, match="never"):
        World().retrier().call(action)
    assert calls == [1]


def test_an_order_is_heard_while_a_call_hangs() -> None:
    world, release = World(), threading.Event()

    def order(why: str) -> None:
        world.ordered = why == "waiting for MLflow, which does not answer"

    with pytest.raises(DeliveryAbandonedError, match="kept in the journal"):
        world.retrier(order).call(release.wait)
    release.set()


def test_an_order_is_heard_between_failures() -> None:
    world = World()
    world.ordered = True
    endless: Any = failing(10**9, ConnectionError("refused"))
    with pytest.raises(DeliveryAbandonedError):
        world.retrier().call(endless)


def test_an_order_lets_mlflow_finish_what_it_is_busy_with() -> None:
    """A cancelled experiment's last entries take a while; MLflow takes one after the other."""
    world = World()
    world.ordered = True

    def slow() -> str:
        until = time.monotonic() + 3 * retry.STOP_GRACE_S
        while time.monotonic() < until:
            world.answered_at = time.monotonic()
            threading.Event().wait(0.005)
        return "done"

    assert world.retrier().call(slow) == "done"


def test_it_waits_as_long_as_the_error_is_worth() -> None:
    with pytest.raises(DeliveryAbandonedError, match=r"did not take it for 0\.05 s, the journal keeps it: ValueError"):
        World().retrier().call(failing(10**9, ValueError("no such model")))


class Clock:
    """Seconds that pass where a test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.mark.parametrize(("progressing", "turns"), [(True, 50), (False, 3)])
def test_what_fails_goes_on_as_long_as_each_turn_brings_it_further(
    progressing: bool, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, clock, taken = World(), Clock(), 0
    world.ordered = True
    monkeypatch.setattr(retry, "time", clock)

    def action() -> None:
        nonlocal taken
        taken += 1
        clock.seconds += 0.06
        if taken == 1 or progressing:
            world.answered_at = clock.seconds
        if taken == 50:
            raise PermissionError("enough")
        raise ConnectionError("the next run's news")

    with pytest.raises(PermissionError if progressing else DeliveryAbandonedError):
        world.retrier().call(action)
    assert taken == turns


def test_news_that_are_sent_again_are_no_progress(
    tmp_path: Path,
    client: MlflowClient,
    launch: Callable[..., LaunchConfig],
    experiment: Callable[..., ExperimentSpec],
    open_recorder: Callable[..., Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MLflow takes one run's news at each turn, and never another's: an order would wait for ever."""
    recorder = open_recorder()
    for number in range(2):
        recorder.record_suggestion(number, {}, {})
    tracker = Tracker(launch(mlflow_tracking_uri=client.tracking_uri), experiment(), tmp_path / "journal.jsonl")
    tracker.connection._client = client
    log_batch, told = client.log_batch, []

    def half(run: str, *items: Any) -> None:
        told.append(run)
        if run == tracker.ids().runs.get(1):
            raise ValueError("not as it should")
        log_batch(run, *items)

    with monkeypatch.context() as patched:
        patched.setattr(client, "log_batch", half)
        assert not tracker.deliver()
        answered_at = tracker.answered_at
        assert not tracker.deliver()
    assert told == [tracker.ids().runs[number] for number in (0, 1, 0, 1)]
    assert answered_at > 0
    assert tracker.answered_at == answered_at
    assert tracker.deliver()
    assert tracker.answered_at > answered_at, "the other's"
    answered_at = tracker.answered_at
    recorder.record_epoch(0, 1, {"validation_accuracy": 0.5})
    assert tracker.deliver()
    assert tracker.answered_at > answered_at, "and the first's, that are new"


def test_it_does_not_hang_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "OUTAGE_LIMIT_S", 0.05)
    release = threading.Event()
    with pytest.raises(DeliveryAbandonedError):
        World().retrier().call(release.wait)
    release.set()
