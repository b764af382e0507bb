"""The retrier: a call that raises or hangs is retried until the error is permanent or a stop is requested."""

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
from search_spaces.storage.folder import FolderStorage
from workers.state.recorder import Recorder
from workers.tracking import retry
from workers.tracking.retry import DeliveryAbandonedError, Retrier
from workers.tracking.tracker import Tracker


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"POLL_S": 0.01, "STOP_GRACE_S": 0.1, "REPORT_AFTER_S": 0.05}.items():
        monkeypatch.setattr(retry, name, seconds)


class Driver:
    """What the driver knows while it waits."""

    def __init__(self) -> None:
        self.stopping = False
        self.answered_at = float("-inf")
        self.reported: list[str] = []

    def retrier(self, on_wait: Callable[[str], None] | None = None) -> Retrier:
        def note(why: str) -> None:
            if self.reported[-1:] != [why]:
                self.reported.append(why)
            if on_wait:
                on_wait(why)

        def retry_window_s(error: Exception) -> float:
            return {PermissionError: 0.0, ValueError: 0.05}.get(type(error), 3600.0)

        return Retrier(lambda: self.stopping, lambda: self.answered_at, note, retry_window_s)


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = iter(range(times))

    def action() -> str:
        if next(left, None) is not None:
            raise error
        return "done"

    return action


def test_a_call_that_succeeds_at_once_reports_no_waiting() -> None:
    driver = Driver()
    assert driver.retrier().call(lambda: 3) == 3
    assert driver.reported == [""]


def test_an_outage_is_waited_for_and_reported() -> None:
    driver = Driver()
    assert driver.retrier().call(failing(3, ConnectionError("refused"))) == "done"
    assert driver.reported == ["waiting for MLflow: ConnectionError('refused')", ""]


def test_a_permanent_error_is_raised_at_once() -> None:
    calls: list[int] = []

    def action() -> None:
        calls.append(1)
        raise PermissionError("never")

    with pytest.raises(PermissionError, match="never"):
        Driver().retrier().call(action)
    assert calls == [1]


def test_a_requested_stop_is_noticed_while_a_call_hangs() -> None:
    driver, release = Driver(), threading.Event()

    def stop_once_it_hangs(why: str) -> None:
        driver.stopping = why == "waiting for MLflow, which does not answer"

    with pytest.raises(DeliveryAbandonedError, match=r"^MLflow did not answer; .* kept in the journal$"):
        driver.retrier(stop_once_it_hangs).call(release.wait)
    release.set()


@pytest.mark.parametrize(
    ("error", "shown"), [(ConnectionError("refused"), "refused"), (ConnectionError(), "ConnectionError")]
)
def test_a_requested_stop_is_noticed_between_failures(error: Exception, shown: str) -> None:
    driver = Driver()
    driver.stopping = True
    endless: Any = failing(10**9, error)
    with pytest.raises(DeliveryAbandonedError) as raised:
        driver.retrier().call(endless)
    assert str(raised.value) == (
        f"MLflow failed; metrics that it has not received are kept in the journal (last error: {shown})"
    )


def test_a_requested_stop_waits_while_mlflow_makes_progress() -> None:
    """A canceled experiment's last entries take a while; MLflow accepts one after the other."""
    driver = Driver()
    driver.stopping = True

    def slow() -> str:
        until = time.monotonic() + 3 * retry.STOP_GRACE_S
        while time.monotonic() < until:
            driver.answered_at = time.monotonic()
            threading.Event().wait(0.005)
        return "done"

    assert driver.retrier().call(slow) == "done"


def test_an_error_is_retried_for_its_window() -> None:
    with pytest.raises(DeliveryAbandonedError, match=r"failed for 0\.05 s; .* in the journal \(last error: "):
        Driver().retrier().call(failing(10**9, ValueError("no such model")))


def test_a_call_that_hangs_for_the_whole_window_has_no_error_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "OUTAGE_LIMIT_S", 0.05)
    release = threading.Event()
    with pytest.raises(DeliveryAbandonedError) as raised:
        Driver().retrier().call(release.wait)
    release.set()
    assert "did not answer for 0.05 s" in str(raised.value)
    assert "None" not in str(raised.value)


class Clock:
    """Seconds that pass where a test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.mark.parametrize(("progressing", "turns"), [(True, 50), (False, 3)])
def test_a_failing_call_is_retried_as_long_as_each_try_makes_progress(
    progressing: bool, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, clock, taken = Driver(), Clock(), 0
    driver.stopping = True
    monkeypatch.setattr(retry, "time", clock)

    def action() -> None:
        nonlocal taken
        taken += 1
        clock.seconds += 0.06
        if taken == 1 or progressing:
            driver.answered_at = clock.seconds
        if taken == 50:
            raise PermissionError("enough")
        raise ConnectionError("the next run's events")

    with pytest.raises(PermissionError if progressing else DeliveryAbandonedError):
        driver.retrier().call(action)
    assert taken == turns


def test_a_run_whose_events_are_refused_again_and_again_is_no_progress(
    tmp_path: Path,
    client: MlflowClient,
    launch: Callable[..., LaunchConfig],
    experiment: Callable[..., ExperimentSpec],
    open_recorder: Callable[..., Recorder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """MLflow accepts one run's events, and never another's: a requested stop would wait for ever."""
    recorder = open_recorder()
    for number in range(2):
        recorder.record_suggestion(number, {}, {})
    tracker = Tracker(launch(mlflow_tracking_uri=client.tracking_uri), experiment(), FolderStorage(tmp_path))
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
    assert told == [tracker.ids().runs[number] for number in (0, 1, 1)], "what was accepted is not sent again"
    assert answered_at > 0
    assert tracker.answered_at == answered_at
    assert tracker.deliver()
    assert tracker.answered_at > answered_at, "the other's"
    answered_at = tracker.answered_at
    recorder.record_epoch(0, 1, {"validation_accuracy": 0.5})
    assert tracker.deliver()
    assert tracker.answered_at > answered_at, "and the first's, that are new"


def test_a_call_that_hangs_is_abandoned_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "OUTAGE_LIMIT_S", 0.05)
    release = threading.Event()
    with pytest.raises(DeliveryAbandonedError):
        Driver().retrier().call(release.wait)
    release.set()
