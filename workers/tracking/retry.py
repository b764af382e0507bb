"""Retrier: what MLflow must still be told is said however long MLflow stays away.

Owns the waiting at an experiment's end, in which orders are heard all the time, also while a call hangs. It
must not know what is being told, nor how orders arrive.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

log = logging.getLogger("rung.patience")
T = TypeVar("T")

OUTAGE_LIMIT_S = 24 * 3600.0  # for an MLflow that cannot be reached
STOP_GRACE_S = 8.0  # of silence, once a stop is stop_requested
REPORT_AFTER_S = 15.0  # of silence, before a person is told
POLL_S = 1.0


class DeliveryAbandonedError(Exception):
    """MLflow did not answer, and the driver may wait no longer. What it lacks stays in the journal."""


class Retrier:
    """`stop_requested` is asked at each turn; `answered_at` is when MLflow last answered, in monotonic seconds.

    `on_wait` is told why it waits, and "" once that is over. `retry_window_s` says for how long an exception is worth
    trying again; 0 for one that will not pass.
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
        self._worth_s = retry_window_s

    def call(self, action: Callable[[], T]) -> T:
        """Call `action`, again while it raises, and return its result.

        Raises what is not worth another try, and DeliveryAbandonedError.
        """
        began, ordered_at, error, retry_window_s = time.monotonic(), None, None, OUTAGE_LIMIT_S
        said = ""
        future = _begun(action)
        while True:
            wait([future], POLL_S)
            if future.done():
                error = future.exception()
                if error is None:
                    self._on_wait("")
                    return future.result()
                retry_window_s = self._worth_s(error) if isinstance(error, Exception) else 0.0
                if not retry_window_s:
                    raise error
                if repr(error) != said:
                    said = repr(error)
                    log.warning("MLflow did not take it, which is tried again: %s", said)
            now, silent_since = time.monotonic(), max(began, self._answered_at())
            if error is not None or now - silent_since >= REPORT_AFTER_S:
                self._on_wait(
                    f"waiting for MLflow: {error!r}" if error else "waiting for MLflow, which does not answer"
                )
            if self.stop_requested():
                ordered_at = ordered_at or now
                if now - max(ordered_at, silent_since) >= STOP_GRACE_S:
                    raise DeliveryAbandonedError("MLflow was away: what it lacks is kept in the journal") from error
            if now - silent_since >= retry_window_s:
                raise DeliveryAbandonedError(
                    f"MLflow did not take it for {retry_window_s:g} s, the journal keeps it: {error!r}"
                ) from error
            if future.done():
                time.sleep(POLL_S)
                future = _begun(action)


def _begun(action: Callable[[], T]) -> Future[T]:
    """The action, on a thread that holds up no exit of the process: a call may hang for long."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="mlflow", daemon=True).start()
    return future
