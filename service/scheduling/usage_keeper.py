"""UsageKeeper: keeps what teams have borrowed lately in the database, where the next replica or process finds it.

It must not know what the numbers are for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import select
from sqlalchemy.orm import Session

from search_spaces.pool_names import DEFAULT_POOL
from service.scheduling.usage import UsageMeter
from service.store.accounting import Borrowed

#: In counted time: a crash costs so much at most. Each write is one of a row for each team.
SAVE_EVERY_S = 60.0


class UsageKeeper:
    """One replica's meter, and under which fence of the lease its values were read."""

    def __init__(self, meter: UsageMeter) -> None:
        self._meter = meter
        self._fence: int | None = None
        self._saved_at_s = 0.0

    @contextmanager
    def kept(self, session: Session, fence: int) -> Iterator[UsageMeter]:
        """The meter for one pass under the lease. It is read again when the lease has changed hands meanwhile."""
        if fence != self._fence:
            query = select(Borrowed).where(Borrowed.pool == DEFAULT_POOL)
            self._meter.restore({row.team_id: row.amount for row in session.scalars(query)})
            self._fence = fence
        yield self._meter
        if self._meter.counted_s - self._saved_at_s >= SAVE_EVERY_S:
            for team, amount in self._meter.borrowed.items():
                session.merge(Borrowed(pool=DEFAULT_POOL, team_id=team, amount=amount))
            self._saved_at_s = self._meter.counted_s
