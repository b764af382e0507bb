"""Authentication: from the bearer token of a request to its principal, in each mode of the service.

Owns which tokens are accepted. It must not know HTTP, nor what the principal wants.
"""

from __future__ import annotations

import hmac
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.contract.errors import UnauthorizedError
from service.identity import issued_tokens, owner_token, tokens
from service.identity.principals import Principal, PrincipalKind
from service.settings import AuthMode, Settings
from service.store.database import Database

UNKNOWN = "the token is not known, has expired or was revoked"  # which of them would teach who stole one

log = logging.getLogger(__name__)


class Authentication(Protocol):
    """One way to know callers."""

    @property
    def needs_a_thread(self) -> bool:
        """Whether `principal` waits for a database."""
        ...

    def principal(self, token: str | None) -> Principal:
        """Who sends this token; None: no token was sent. Raises UnauthorizedError."""
        ...

    def again(self, session: Session, principal: Principal) -> Principal:
        """The caller as it is now, in a transaction. Raises UnauthorizedError if its token is worth nothing now."""
        ...


class OpenAuthentication:
    """Everybody may do everything, and tokens are not looked at."""

    needs_a_thread = False

    def principal(self, token: str | None) -> Principal:
        return Principal(PrincipalKind.OPEN, login="", admin=True)

    def again(self, session: Session, principal: Principal) -> Principal:
        return principal


class OwnerAuthentication:
    """One user, who can read the token in the service's home."""

    needs_a_thread = False

    def __init__(self, token: str) -> None:
        self._digest = tokens.digest(token)

    def principal(self, token: str | None) -> Principal:
        if token is None:
            raise UnauthorizedError("this service needs the token of its owner, in the file owner_token of its home")
        if not hmac.compare_digest(tokens.digest(token), self._digest):
            raise UnauthorizedError("the token is not that of the owner, in the file owner_token of the service's home")
        return Principal(PrincipalKind.OWNER, login="owner", admin=True)

    def again(self, session: Session, principal: Principal) -> Principal:
        return principal


class AccountAuthentication:
    """People and programs, whose tokens are in the database and are looked up for each request."""

    needs_a_thread = True

    def __init__(self, database: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._clock = clock
        self._recording = threading.Lock()

    def principal(self, token: str | None) -> Principal:
        if token is None:
            raise UnauthorizedError("this service needs a token")
        now = self._clock()
        with self._database.engine.connect() as connection:
            found = issued_tokens.recognize(connection, token, now)
        if found is None:
            raise UnauthorizedError(UNKNOWN)
        if found.use_is_due and found.principal.token is not None:
            self._record_use(found.principal.token.id, now)
        return found.principal

    def again(self, session: Session, principal: Principal) -> Principal:
        token_id = "" if principal.token is None else principal.token.id
        found = issued_tokens.recognize_id(session, token_id, self._clock())
        if found is None:
            raise UnauthorizedError(UNKNOWN)
        return found.principal

    def _record_use(self, token_id: str, now: datetime) -> None:
        """A database that takes no writes still answers those who read. Where one use waits to be written, the others
        do not: the next request of their token records it."""
        if not self._recording.acquire(blocking=False):
            return
        try:
            with self._database.write() as session:
                issued_tokens.record_use(session, token_id, now)
        except SQLAlchemyError as error:
            log.warning("the last use of the token %s was not recorded: %s", token_id, error)
        finally:
            self._recording.release()


def open_authentication(settings: Settings, database: Database) -> Authentication:
    """What the settings ask for. Raises OwnerTokenError."""
    match settings.auth:
        case AuthMode.OPEN:
            return OpenAuthentication()
        case AuthMode.OWNER:
            return OwnerAuthentication(owner_token.read_or_make(settings.home))
        case AuthMode.ACCOUNTS:
            return AccountAuthentication(database)
