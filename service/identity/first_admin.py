"""First administrator: written straight into the database, by somebody who can reach it.

`python -m service.identity.first_admin LOGIN [--again]` prints a token, on the host of the service and with its
settings. There is no default password and no address that makes the first caller the administrator.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta

from service.contract.errors import ConflictError
from service.environment import SettingsError, read_settings
from service.identity import audit, issued_tokens, users
from service.identity.audit import Act
from service.identity.issued_tokens import NewToken
from service.identity.tokens import TokenKind
from service.identity.users import NewUser
from service.store.database import Database, DatabaseUnusableError

#: Long enough to sign in properly, or to set up the provider.
LIFETIME = timedelta(days=1)
AGAIN = "--again"


def create_first_admin(database: Database, login: str, again: bool = False) -> str:
    """The token of a new administrator, valid for a day. An existing person becomes one, and is enabled.

    Raises ConflictError if there is an administrator, unless `again`; SpecError for a bad login.
    """
    now = datetime.now(UTC)
    with database.write() as session:
        if users.count_admins(session) and not again:
            raise ConflictError(f"there is an administrator already; give {AGAIN} to make {login!r} one as well")
        user = users.find_by_login(session, login)
        if user is None:
            user = users.create(session, NewUser(login, admin=True), now)
        else:
            users.change(session, user, {"admin": True, "disabled": False}, now)
        _, token = issued_tokens.issue(session, NewToken(TokenKind.PERSON, "first sign-in", LIFETIME, user.id), now)
        change = {"after": {"admin": True, "disabled": False}}
        act = Act("create_first_admin", f"users/{user.login}", login="the host of the service", change=change)
        audit.record(session, act, now)
    return token


def main() -> None:
    """Print the token on one line, or what is wrong on one line of stderr with status 2."""
    arguments = sys.argv[1:]
    logins = [one for one in arguments if one != AGAIN]
    if len(logins) != 1:
        _fail(f"usage: python -m service.identity.first_admin LOGIN [{AGAIN}]")
    try:
        database = Database.open(read_settings(os.environ).sqlalchemy_url)
        try:
            print(create_first_admin(database, logins[0], AGAIN in arguments))
        finally:
            database.close()
    except (SettingsError, DatabaseUnusableError, ConflictError, ValueError) as error:
        _fail("; ".join(str(error).splitlines()))


def _fail(why: str) -> None:
    print(why, file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
