"""Used ID tokens: which were exchanged, so that none is exchanged twice, whichever replica is asked.

Owns by what an ID token is known again, and for how long it must be. It must not know HTTP, nor which are accepted.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.store.accounts import UsedIdToken

#: Far longer than any ID token is accepted, also where the clocks of replicas differ.
KEPT = timedelta(hours=1)


def use(session: Session, id_token: str, now: datetime) -> bool:
    """Whether the ID token, which was checked, is used for the first time. Of two at the same moment, one is."""
    signed = id_token.rpartition(".")[0]  # without the signature: it can be written in several ways
    try:
        with session.begin_nested():
            session.add(UsedIdToken(sha256=hashlib.sha256(signed.encode()).hexdigest(), used_at=now))
    except IntegrityError:
        return False
    return True


def delete_old(session: Session, now: datetime) -> None:
    """Forget the ID tokens that would be refused by their age."""
    session.execute(delete(UsedIdToken).where(UsedIdToken.used_at < now - KEPT))
