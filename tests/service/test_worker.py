"""A worker's thread: it repeats its passes, and says once what is wrong with several of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from service.worker import Worker

PATIENCE_S = 20.0


class Scripted(Worker):
    """Each pass raises the next error; None is a pass without one. `done` is set after the last."""

    def __init__(self, *script: Exception | None) -> None:
        super().__init__(
            "scripted", interval_s=0.001, stop_timeout_s=PATIENCE_S, passing=(OSError,), complaint="nothing is done"
        )
        self._script: Iterator[Exception | None] = iter(script)
        self.done = threading.Event()

    def run_once(self) -> None:
        error = next(self._script, self.done)
        if isinstance(error, threading.Event):
            error.set()
        elif error is not None:
            raise error


def test_an_error_that_lasts_is_logged_once_and_again_when_it_returns(caplog: pytest.LogCaptureFixture) -> None:
    gone = "no route to host"
    worker = Scripted(OSError(gone), OSError(f"{gone}\nin two lines"), None, OSError(gone), OSError(), OSError())
    worker.start()
    assert worker.done.wait(PATIENCE_S)
    worker.stop()
    assert worker.stopped
    said = [record.getMessage() for record in caplog.records if record.name == Scripted.__module__]
    assert said == [f"nothing is done: {one}" for one in (gone, gone, "OSError")]


def test_any_other_error_is_logged_with_its_traceback_and_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    worker = Scripted(ZeroDivisionError("a defect"), None)
    worker.start()
    assert worker.done.wait(PATIENCE_S)
    worker.stop()
    assert "a defect" in caplog.text
