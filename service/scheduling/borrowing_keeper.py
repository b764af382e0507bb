"""Borrowing keeper: keeps what teams have borrowed of each pool in the database, where the next replica finds it.

It must not know what the numbers are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.scheduling.borrowing import BorrowingMeter
from service.store.accounting import Borrowed

#: In counted time: a crash costs so much at most. Each write is one of a row for each team.
SAVE_EVERY_S = 60.0


@dataclass
class _Kept:
    """The meter of a pool, and under which fence of the lease its values were read."""

    meter: BorrowingMeter
    fence: int | None = None
    saved_at_s: float = 0.0


class BorrowingKeeper:
    """One replica's meters, of which `new` makes one for each pool."""

    def __init__(self, new: Callable[[], BorrowingMeter]) -> None:
        self._new = new
        self._kept: dict[str, _Kept] = {}

    @contextmanager
    def kept(self, session: Session, fence: int) -> Iterator[Callable[[str], BorrowingMeter]]:
        """The meters by pool, for one pass under the lease. They are read again when the lease has changed hands
        meanwhile; the meter of a pool for which none was asked is forgotten."""
        used: dict[str, _Kept] = {}

        def meter(pool: str) -> BorrowingMeter:
            one = used[pool] = self._kept.get(pool) or _Kept(self._new())
            if fence != one.fence:
                query = select(Borrowed).where(Borrowed.pool == pool)
                one.meter.restore({row.team_id: row.amount for row in session.scalars(query)})
                one.fence = fence
            return one.meter

        yield meter
        self._kept = used
        for pool, one in used.items():
            if one.meter.counted_s - one.saved_at_s >= SAVE_EVERY_S:
                for team, amount in one.meter.borrowed.items():
                    session.merge(Borrowed(pool=pool, team_id=team, amount=amount))
                one.saved_at_s = one.meter.counted_s
