"""Changes: the transaction in which a request changes something, with the rights that its caller has by then.

The caller is found before the body is read (`authentication`). The body may arrive much later, and its transaction may
wait for others, so that the token, the person or the roles may be gone by then. It must not know what is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from service.api.callers import Caller
from service.context import AppContext
from service.contract.errors import ForbiddenError


@contextmanager
def transaction(context: AppContext, caller: Caller, *, of_rights: bool = False) -> Iterator[Session]:
    """A transaction in which nobody's rights change but by itself, and then only if it is one `of_rights`: of people,
    members, tokens or teams. Raises what `confirm` does."""
    with context.database.write() as session:
        begin(context, session, caller, of_rights=of_rights)
        yield session


def begin(context: AppContext, session: Session, caller: Caller, *, of_rights: bool = False) -> None:
    """The same for a transaction that was just opened for writing."""
    context.database.hold_rights(session, exclusive=of_rights)
    confirm(context, session, caller)


def confirm(context: AppContext, session: Session, caller: Caller) -> None:
    """Raises UnauthorizedError for a caller whose token is worth nothing any more, ForbiddenError for one whose rights
    are not those that the request began with."""
    if context.authentication.again(session, caller.principal) != caller.principal:
        raise ForbiddenError("your rights changed while this request was sent: send it again")
