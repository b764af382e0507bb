"""Storage keeper: the thread that measures the files of experiments after they changed.

A measurement walks through all files of one experiment. Owns when it does so, and that one whose files cannot be read
is put off. It acts only while the reconciler holds the lease. It must not know what the sizes are for.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from service.context import AppContext, utc_now
from service.domain import team_storage
from service.store.leases import HeldLease, LeaseLostError, assert_held
from service.worker import Worker

INTERVAL_S = 30.0
STOP_TIMEOUT_S = 30.0  # a large folder may take longer
BATCH_SIZE = 100
PUT_OFF_S = 600.0  # after an error
#: How often all experiments are looked at, also those that ended long ago; in between, only what may have changed.
ALL_EVERY_S = 3600.0

log = logging.getLogger(__name__)


class StorageKeeper(Worker):
    """`held` returns the lease."""

    def __init__(
        self,
        context: AppContext,
        held: Callable[[], HeldLease | None],
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            "storage",
            interval_s=INTERVAL_S,
            stop_timeout_s=STOP_TIMEOUT_S,
            passing=(LeaseLostError, SQLAlchemyError, OSError),
            complaint="files are not measured, which will be tried again",
        )
        self._context = context
        self._held = held
        self._clock = clock
        self._monotonic = monotonic
        self._put_off_until: dict[str, float] = {}
        self._all_at = -math.inf
        self._changing = set[str]()  # what may have changed since all were looked at
        self._looked_at: datetime | None = None

    def run_once(self) -> int:
        """Measure what is due; returns how many were. Raises SQLAlchemyError, StorageLostError, LeaseLostError."""
        if (held := self._held()) is None:
            return 0
        now = self._monotonic()
        self._put_off_until = {one: until for one, until in self._put_off_until.items() if until > now}
        is_of_all, most = now - self._all_at >= ALL_EVERY_S, BATCH_SIZE + len(self._put_off_until)
        looks_at = self._clock()
        since = min(looks_at, self._looked_at or looks_at)  # a search may begin and end between two passes
        with self._context.database.read() as session:
            changing = team_storage.changing(session, since, settling=is_of_all)
            self._changing = changing if is_of_all else self._changing | changing
            found = team_storage.due(session, looks_at, most, None if is_of_all else self._changing)
        self._looked_at = looks_at
        due = [one for one in found if one not in self._put_off_until]
        if due:
            self._context.storage.check()  # elsewhere, there would seem to be nothing
        measured = sum(self._measure(held, one) for one in due if not self.stopped)
        if is_of_all and len(found) < most:
            self._all_at = now
        return measured

    def _measure(self, held: HeldLease, experiment_id: str) -> bool:
        began = self._clock()
        try:
            size = sum(self._context.files(experiment_id).sizes().values())
        except OSError as error:
            log.warning("the files of experiment %s could not be measured: %s", experiment_id, error)
            self._put_off_until[experiment_id] = self._monotonic() + PUT_OFF_S
            self._changing.add(experiment_id)
            return False
        with self._context.database.write() as session:
            assert_held(session, held, self._clock())
            team_storage.record(session, experiment_id, size, began)
        return True
