"""Retrier: MLflow calls at the end of an experiment, retried until they succeed, time is up or a stop is requested.

Owns the waiting, during which a requested stop is noticed at any time, also while a call hangs. It must not know what
is called, nor how a stop is requested.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")

OUTAGE_LIMIT_S = 24 * 3600.0  # how long an unreachable MLflow is waited for
STOP_GRACE_S = 8.0  # how long MLflow may stay silent once a stop is requested
REPORT_AFTER_S = 15.0  # after so long the experiment reports that it waits for MLflow
POLL_S = 1.0


class DeliveryAbandonedError(Exception):
    """MLflow did not answer, and the driver may wait no longer. The journal keeps what MLflow has not received."""


class Retrier:
    """`stop_requested` is called every second; `answered_at` is when MLflow last answered, in monotonic seconds.

    `on_wait` receives why the retrier waits, and "" when that is over. `retry_window_s` says for how long an exception
    is worth retrying; 0 for a permanent one.
    """

    def __init__(
        self,
        stop_requested: Callable[[], bool],
        answered_at: Callable[[], float],
        on_wait: Callable[[str], None],
        retry_window_s: Callable[[Exception], float],
    ) -> None:
        self.stop_requested = stop_requested
        self._answered_at = answered_at
        self._on_wait = on_wait
        self._retry_window_s = retry_window_s

    def call(self, action: Callable[[], T]) -> T:
        """Call `action`, again while it raises, and return its result.

        Raises an exception that is not worth another try, and DeliveryAbandonedError.
        """
        began, stop_at, error, window_s = time.monotonic(), None, None, OUTAGE_LIMIT_S
        logged = ""
        future = _started(action)
        while True:
            wait([future], POLL_S)
            if future.done():
                error = future.exception()
                if error is None:
                    self._on_wait("")
                    return future.result()
                window_s = self._retry_window_s(error) if isinstance(error, Exception) else 0.0
                if not window_s:
                    raise error
                if repr(error) != logged:
                    logged = repr(error)
                    log.warning("a call to MLflow failed and will be retried: %s", logged)
            now, silent_since = time.monotonic(), max(began, self._answered_at())
            if error is not None or now - silent_since >= REPORT_AFTER_S:
                self._on_wait(
                    f"waiting for MLflow: {error!r}" if error else "waiting for MLflow, which does not answer"
                )
            if self.stop_requested():
                stop_at = stop_at or now
                if now - max(stop_at, silent_since) >= STOP_GRACE_S:
                    raise _abandoned("", error) from error
            if now - silent_since >= window_s:
                raise _abandoned(f" for {_duration(window_s)}", error) from error
            if future.done():
                time.sleep(POLL_S)
                future = _started(action)


def _abandoned(how_long: str, error: BaseException | None) -> DeliveryAbandonedError:
    problem = "did not answer" if error is None else "failed"
    last = "" if error is None else f" (last error: {str(error) or type(error).__name__})"
    kept = "metrics that it has not received are kept in the journal"
    return DeliveryAbandonedError(f"MLflow {problem}{how_long}; {kept}{last}")


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"


def _started(action: Callable[[], T]) -> Future[T]:
    """The action, on a thread that does not keep the process alive: a call may hang for long."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="mlflow", daemon=True).start()
    return future
