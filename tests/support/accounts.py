"""A service with accounts: people, programs and teams, straight in its database, and clients with their tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx
from sqlalchemy import select

from service.identity import issued_tokens, teams, users
from service.identity.issued_tokens import NewToken
from service.identity.principals import Role
from service.identity.tokens import TokenKind, digest
from service.identity.users import NewUser
from service.store.accounts import Token
from service.store.database import Database

DAY = timedelta(days=1)


class Accounts:
    """The accounts of one database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def team(self, team: str, name: str = "") -> str:
        with self.database.write() as session:
            return teams.create(session, team, name, datetime.now(UTC)).id

    def person(self, login: str, admin: bool = False, **roles: str) -> str:
        """A token of a new person with these roles (`vision="viewer"`)."""
        with self.database.write() as session:
            users.create(session, NewUser(login, admin=admin), datetime.now(UTC))
            for team, role in roles.items():
                teams.set_member(session, teams.find(session, team, None), login, Role(role))
        return self.token(login)

    def token(
        self,
        login: str,
        lifetime: timedelta = DAY,
        revoked: bool = False,
        team: str | None = None,
        role: str | None = None,
    ) -> str:
        """Another token of a person; `team` and `role` restrict it."""
        now = datetime.now(UTC)
        with self.database.write() as session:
            user = users.find(session, login)
            limit = None if role is None else Role(role)
            row, text = issued_tokens.issue(
                session, NewToken(TokenKind.PERSON, "test", lifetime, user.id, team, limit), now
            )
            if revoked:
                issued_tokens.revoke(row, now)
        return text

    def program(self, team: str, role: str) -> str:
        """A service token of a team."""
        with self.database.write() as session:
            new = NewToken(TokenKind.SERVICE, "nightly", DAY, None, team, Role(role))
            return issued_tokens.issue(session, new, datetime.now(UTC))[1]

    def row(self, token: str) -> Token:
        """What is stored of a token."""
        with self.database.read() as session:
            return session.scalars(select(Token).where(Token.sha256 == digest(token))).one()


@contextmanager
def signed_in(client: httpx.Client, token: str | None) -> Iterator[httpx.Client]:
    """Another client of the same service, which sends a token."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    hooks = client.event_hooks
    with httpx.Client(
        base_url=client.base_url, headers=headers, trust_env=False, timeout=client.timeout, event_hooks=hooks
    ) as other:
        yield other


def submitted_by_two_teams(accounts: Accounts, client: httpx.Client) -> dict[str, str]:
    """The id of an experiment on CPUs that a member of each team has submitted, by team."""
    ids = {}
    for team, login in (("vision", "bob"), ("speech", "eve")):
        accounts.team(team)
        with signed_in(client, accounts.person(login, False, **{team: "member"})) as sender:
            spec = {"name": "x", "resources": {"gpus_per_trial": 0}}
            ids[team] = sender.post("/api/v1/experiments", json=spec).json()["id"]
    return ids
