"""The periodic thread: it repeats, wakes, survives exceptions and stops."""

from __future__ import annotations

import queue
import threading

import pytest

from search_spaces.periodic import PeriodicThread

LONG_S = 3600.0
PATIENCE_S = 60.0


def is_running() -> bool:
    return any(thread.name == "tested" for thread in threading.enumerate())


def test_it_runs_at_once_after_each_wake_and_not_after_stop() -> None:
    runs: queue.Queue[str] = queue.Queue()
    thread = PeriodicThread("tested", lambda: runs.put(threading.current_thread().name), LONG_S)
    thread.start()
    for _ in range(3):
        assert runs.get(timeout=PATIENCE_S) == "tested"
        thread.wake()
    assert runs.get(timeout=PATIENCE_S) == "tested"
    thread.stop()
    thread.join(PATIENCE_S)
    assert not is_running()
    assert runs.empty()


def test_the_thread_repeats_the_action() -> None:
    runs: queue.Queue[None] = queue.Queue()
    thread = PeriodicThread("tested", lambda: runs.put(None), 0.001)
    thread.start()
    for _ in range(3):
        runs.get(timeout=PATIENCE_S)
    thread.stop()
    thread.join(PATIENCE_S)


def test_an_exception_is_logged_and_the_action_runs_again(caplog: pytest.LogCaptureFixture) -> None:
    runs: queue.Queue[None] = queue.Queue()

    def fail() -> None:
        runs.put(None)
        raise ValueError("a defect")

    thread = PeriodicThread("tested", fail, 0.001)
    thread.start()
    for _ in range(2):
        runs.get(timeout=PATIENCE_S)
    thread.stop()
    thread.join(PATIENCE_S)
    assert "ValueError: a defect" in caplog.text


def test_the_action_itself_may_stop_and_join() -> None:
    done = threading.Event()

    def end() -> None:
        thread.stop()
        thread.join()
        done.set()

    thread = PeriodicThread("tested", end, LONG_S)
    thread.start()
    assert done.wait(PATIENCE_S)
    thread.join(PATIENCE_S)
    assert not is_running()


def test_a_thread_that_never_started_is_joined_at_once() -> None:
    thread = PeriodicThread("tested", lambda: None, LONG_S)
    thread.stop()
    thread.join()
    assert not is_running()
