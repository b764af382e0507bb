"""Worker: a part of the service that works in a thread of its own, a pass at a time.

Owns the thread, and that an error which lasts is logged once. It must not know what a pass does.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod

from search_spaces.periodic import PeriodicThread


class Worker(ABC):
    """`start` and `stop` the thread; `run_once` is one pass, which tests call themselves.

    `passing` are errors of a pass that the next one may not have; the log says `complaint` and what they say. A pass
    that has begun has `stop_timeout_s` to end: the thread is a daemon.
    """

    def __init__(
        self,
        name: str,
        *,
        interval_s: float,
        stop_timeout_s: float,
        passing: tuple[type[Exception], ...],
        complaint: str,
    ) -> None:
        self._stop_timeout_s = stop_timeout_s
        self._passing = passing
        self._complaint = complaint
        self._problem = ""
        self._thread = PeriodicThread(name, self._run, interval_s)

    @abstractmethod
    def run_once(self) -> object:
        """One pass. A long one looks at `stopped` between its steps."""

    @property
    def stopped(self) -> bool:
        return self._thread.stopped

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its step; the next start continues."""
        self._thread.stop()
        self._thread.join(self._stop_timeout_s)

    def _run(self) -> None:
        problem = ""
        try:
            self.run_once()
        except self._passing as error:
            problem = next(iter(str(error).splitlines()), type(error).__name__)
        if problem and problem != self._problem:
            logging.getLogger(type(self).__module__).warning("%s: %s", self._complaint, problem)
        self._problem = problem
