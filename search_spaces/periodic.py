"""PeriodicThread: one background thread that repeats an action.

Owns starting, waking and stopping the thread, and that an exception does not end it. It must not know what the
action does. It is here because the service and the workers use it and neither may import the other.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class PeriodicThread:
    """Runs `action` at once, then every `interval_s` seconds and soon after each `wake`, until `stop`.

    Two runs are at least `min_gap_s` apart, no matter how often it is woken. An exception of the action is logged, and
    the action runs again. The thread is a daemon: it does not keep the process alive. `woken` is for those who must be
    able to wake the thread before it exists.
    """

    def __init__(
        self,
        name: str,
        action: Callable[[], object],
        interval_s: float,
        min_gap_s: float = 0.0,
        woken: threading.Event | None = None,
    ) -> None:
        self._action = action
        self._interval_s = interval_s
        self._min_gap_s = min(min_gap_s, interval_s)
        self._woken = woken or threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Run the action soon instead of after the rest of the interval."""
        self._woken.set()

    def stop(self) -> None:
        """Run the action no more. Does not wait for a run that has begun: `join` does."""
        self._stopped.set()
        self._woken.set()

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until the thread has ended. Returns at once where it never started, or from within the action."""
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called. A long action may return early then."""
        return self._stopped.is_set()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._action()
            except Exception:
                log.exception("the action of thread %s failed, it runs again", self._thread.name)
            self._stopped.wait(self._min_gap_s)
            self._woken.wait(self._interval_s - self._min_gap_s)
            self._woken.clear()
