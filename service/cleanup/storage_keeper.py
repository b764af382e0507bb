"""Storage keeper: the thread that measures the files of experiments after they changed.

A measurement walks through all files of one experiment. Owns when it does so, and that one whose files cannot be read
is put off. It acts only while the reconciler holds the lease. It must not know what the sizes are for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from search_spaces.periodic import PeriodicThread
from service.context import AppContext, utc_now
from service.domain import team_storage
from service.store.leases import HeldLease, LeaseLostError, assert_held

INTERVAL_S = 30.0
STOP_TIMEOUT_S = 30.0  # a large folder may take longer; the thread is a daemon
BATCH_SIZE = 100
PUT_OFF_S = 600.0  # after an error

log = logging.getLogger(__name__)


class StorageKeeper:
    """`start` and `stop` the thread; `run_once` is one pass. `held` returns the lease."""

    def __init__(
        self,
        context: AppContext,
        held: Callable[[], HeldLease | None],
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._held = held
        self._clock = clock
        self._monotonic = monotonic
        self._put_off_until: dict[str, float] = {}
        self._thread = PeriodicThread("storage", self._run, INTERVAL_S)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the current experiment; the next start continues."""
        self._thread.stop()
        self._thread.join(STOP_TIMEOUT_S)

    def run_once(self) -> int:
        """Measure what is due; returns how many were. Raises SQLAlchemyError, StorageLostError, LeaseLostError."""
        if (held := self._held()) is None:
            return 0
        now = self._monotonic()
        self._put_off_until = {one: until for one, until in self._put_off_until.items() if until > now}
        with self._context.database.read() as session:
            due = team_storage.due(session, self._clock(), BATCH_SIZE + len(self._put_off_until))
        due = [one for one in due if one not in self._put_off_until]
        if due:
            self._context.storage.check()  # elsewhere, there would seem to be nothing
        return sum(self._measure(held, one) for one in due if not self._thread.stopped)

    def _measure(self, held: HeldLease, experiment_id: str) -> bool:
        began = self._clock()
        try:
            size = sum(self._context.files(experiment_id).sizes().values())
        except OSError as error:
            log.warning("the files of experiment %s could not be measured: %s", experiment_id, error)
            self._put_off_until[experiment_id] = self._monotonic() + PUT_OFF_S
            return False
        with self._context.database.write() as session:
            assert_held(session, held, self._clock())
            team_storage.record(session, experiment_id, size, began)
        return True

    def _run(self) -> None:
        try:
            self.run_once()
        except (LeaseLostError, SQLAlchemyError, OSError) as error:
            log.warning("files are not measured, which will be tried again: %s", str(error).splitlines()[0])
