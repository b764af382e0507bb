"""Leases: which replica may act on the queue, if several services share one database.

Owns how a lease is taken, renewed and checked. A lease expires by itself. Each new holder gets a higher fence, and
`assert_held` refuses a write under an older one, so that a replica that was suspended changes nothing when it resumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.store.database import Database
from service.store.models import Lease


@dataclass(frozen=True)
class HeldLease:
    """Proof of a lease: its name, its holder, and the fence that the holder got."""

    name: str
    owner: str
    fence: int
    seconds: float


class LeaseLostError(Exception):
    """Another replica holds the lease now."""


def acquire(database: Database, name: str, owner: str, seconds: float, now: datetime) -> HeldLease | None:
    """Take or renew a lease. None while another owner's lease has not expired.

    Another owner's lease never lasts longer than `seconds` from now: if a clock was ahead of ours when it was written,
    the lease is shortened.
    """
    end = now + timedelta(seconds=seconds)
    try:
        with database.write() as session:
            lease = session.scalar(select(Lease).where(Lease.name == name).with_for_update())
            if lease is None:
                lease = Lease(name=name, owner=owner, fence=1, expires_at=end)
                session.add(lease)
            elif lease.owner != owner:
                if lease.expires_at > now:
                    lease.expires_at = min(lease.expires_at, end)
                    return None
                lease.owner, lease.fence = owner, lease.fence + 1
            lease.expires_at = end
            return HeldLease(name, owner, lease.fence, seconds)
    except IntegrityError:  # two replicas inserted the first row at the same time
        return None


def assert_held(session: Session, held: HeldLease, now: datetime) -> None:
    """Begin a write under the lease: renew it, and lock its row until the transaction ends. Raises LeaseLostError.

    An expired lease is still held while its fence is unchanged: nobody has acted since.
    """
    if not _renewed(session, held, now + timedelta(seconds=held.seconds)):
        raise LeaseLostError(
            f"another replica has taken over the lease {held.name!r} (this one had fence {held.fence})"
        )


def ends_at(session: Session, name: str) -> datetime | None:
    """When a lease ends if nobody renews it; None if nobody has ever held it."""
    return session.scalar(select(Lease.expires_at).where(Lease.name == name))


def release(database: Database, held: HeldLease, now: datetime) -> None:
    """Let the lease expire now, so that another replica need not wait."""
    with database.write() as session:
        _renewed(session, held, now)


def _renewed(session: Session, held: HeldLease, end: datetime) -> bool:
    renewed: CursorResult[Any] = session.execute(  # type: ignore[assignment]  # SQLAlchemy says Result
        update(Lease)
        .where(Lease.name == held.name, Lease.owner == held.owner, Lease.fence == held.fence)
        .values(expires_at=end)
    )
    return renewed.rowcount == 1
