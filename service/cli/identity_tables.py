"""Identity tables: what the commands show of people, teams, tokens and the audit log.

Tables of at most 80 columns where names are short. It must not know how they are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from service.cli.printable import one_line
from service.client.credentials import Source
from service.contract.identity import AuditEntry, TeamView, TokenView, UserView, WhoAmI
from service.presentation.text import Table

#: How a source of a token is called in a sentence.
SOURCES: dict[Source, str] = {
    "argument": "--token",
    "RUNG_TOKEN": "RUNG_TOKEN",
    "login": "`rung login`",
    "rung up": "the running `rung up`",
    "none": "nowhere: no token was sent",
}
KINDS = {
    "person": "a person",
    "service": "a program of a team",
    "owner": "the owner of this service",
    "open": "anybody: the service asks for no token",
}


def describe_caller(found: WhoAmI, url: str, source: Source) -> list[str]:
    """Who the caller is, a line each."""
    who = caller_name(found) if found.user is None else person(found.user.login, found.user.name)
    teams = ", ".join(f"{one.team} ({one.role})" for one in found.teams) or "none"
    lines = [f"{who} at {url}", f"  admin     {'yes' if found.admin else 'no'}", f"  teams     {teams}"]
    if found.token is not None:
        until = f", until {moment(found.token.expires_at)}" if found.token.expires_at else ""
        lines.append(
            f"  token     {found.token.id}{f' ({one_line(found.token.name)})' if found.token.name else ''}{until}"
        )
    return [*lines, f"  from      {SOURCES[source]}"]


def caller_name(found: WhoAmI) -> str:
    """The login of a person, or what the caller is."""
    return KINDS[found.kind] if found.user is None else found.user.login


def tokens(items: Iterable[TokenView], now: datetime | None = None) -> Table:
    """One row for each token."""
    now = now or datetime.now(UTC)
    rows = tuple(
        (
            one.id,
            one.name,
            f"{one.team} ({one.role})" if one.team else "you",
            "revoked" if one.revoked_at else "expired" if one.expires_at <= now else day(one.expires_at),
            moment(one.last_used_at) if one.last_used_at else "never",
        )
        for one in items
    )
    return Table(("id", "name", "acts for", "until", "last used"), rows)


def teams(items: Iterable[TeamView]) -> Table:
    """One row for each team."""
    rows = tuple((one.team, one.name, day(one.created_at), "archived" if one.archived_at else "") for one in items)
    return Table(("team", "name", "created", "state"), rows)


def members(team: TeamView) -> Table:
    """One row for each member of a team."""
    return Table(("login", "name", "role"), tuple((one.login, one.name, one.role) for one in team.members))


def users(items: Iterable[UserView]) -> Table:
    """One row for each person."""
    rows = tuple(
        (
            one.login,
            one.name,
            one.email,
            "disabled" if one.disabled_at else "admin" if one.admin else "",
            day(one.created_at),
        )
        for one in items
    )
    return Table(("login", "name", "email", "state", "created"), rows)


def audit(entries: Iterable[AuditEntry]) -> Table:
    """One row for each entry."""
    rows = tuple(
        (moment(one.at), one.principal or one.kind, one.action, one.object or one.team or "", one.outcome)
        for one in entries
    )
    return Table(("at", "who", "action", "object", "outcome"), rows)


def person(login: str, name: str) -> str:
    """`alice (Alice Example)`, or the login only."""
    return one_line(f"{login} ({name})" if name and name != login else login)


def moment(at: datetime) -> str:
    """A time of this machine's time zone, to the minute."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M")


def day(at: datetime | None) -> str:
    """A day of this machine's time zone; empty if it is not known."""
    return at.astimezone().strftime("%Y-%m-%d") if at else ""
