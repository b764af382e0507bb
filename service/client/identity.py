"""Identity client: the routes about sign-in, people, teams, tokens and the audit log, each as a method.

Owns their addresses. It must not know where tokens are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from search_spaces.protocol import API_PREFIX
from service.client.encoding import JSON, encode_json, path_part, whole_number
from service.client.transport import PAGE, HttpTransport
from service.contract.identity import (
    AuditEntry,
    AuditPage,
    AuthMethods,
    CreatedToken,
    Role,
    SignedIn,
    TeamList,
    TeamView,
    TokenKind,
    TokenList,
    TokenView,
    UserList,
    UserView,
    WhoAmI,
)

V = TypeVar("V", bound=BaseModel)


class IdentityClient:
    """`client.identity`. Every method raises a RungError, as those of the client do."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    def methods(self) -> AuthMethods:
        """How people sign in to this service. Needs no token."""
        return self._transport.get(AuthMethods, f"{API_PREFIX}/auth")

    def login(self, login: str, password: str, *, name: str | None = None, expires_days: int | None = None) -> SignedIn:
        """A token for a login and a password. `name` says what the token is for."""
        body = {"login": login, "password": password, "name": name, "expires_days": expires_days}
        return self._post(SignedIn, "auth/login", body)

    def exchange(
        self, id_token: str, *, nonce: str | None = None, name: str | None = None, expires_days: int | None = None
    ) -> SignedIn:
        """A token for an ID token of the service's OpenID provider."""
        body = {"id_token": id_token, "nonce": nonce, "name": name, "expires_days": expires_days}
        return self._post(SignedIn, "auth/exchange", body)

    def whoami(self) -> WhoAmI:
        """Who this client is, as the service sees it."""
        return self._transport.get(WhoAmI, f"{API_PREFIX}/auth/whoami")

    def logout(self) -> None:
        """Revoke the token of this client."""
        self._transport.send("POST", f"{API_PREFIX}/auth/logout")

    def tokens(self, *, team: str | None = None) -> list[TokenView]:
        """The caller's tokens, or the service tokens of a team that the caller manages."""
        return self._transport.get(TokenList, f"{API_PREFIX}/tokens", {"team": team}).items

    def create_token(
        self,
        name: str,
        *,
        expires_days: int,
        kind: TokenKind = "person",
        team: str | None = None,
        role: Role | None = None,
    ) -> CreatedToken:
        """A new token: of the caller, or with `team` and `role` of a program. It is shown once."""
        body = {"kind": kind, "name": name, "expires_days": expires_days, "team": team, "role": role}
        return self._post(CreatedToken, "tokens", body)

    def revoke_token(self, token_id: str) -> None:
        """End a token at once."""
        self._transport.send("DELETE", f"{API_PREFIX}/tokens/{path_part(token_id, 'token_id')}")

    def teams(self) -> list[TeamView]:
        """The teams that the caller may see, without their members."""
        return self._transport.get(TeamList, f"{API_PREFIX}/teams").items

    def team(self, team: str) -> TeamView:
        """A team with its members. Raises NotFoundError."""
        return self._transport.get(TeamView, _team(team))

    def create_team(self, team: str, name: str | None = None) -> TeamView:
        """Create a team. For administrators."""
        return self._post(TeamView, "teams", {"team": team, "name": name})

    def archive_team(self, team: str) -> TeamView:
        """Have a team accept nothing new. For administrators."""
        return self._transport.parse_response(TeamView, self._transport.send("POST", f"{_team(team)}/archive"))

    def unarchive_team(self, team: str) -> TeamView:
        """Have an archived team accept submissions again. For administrators."""
        return self._transport.parse_response(TeamView, self._transport.send("POST", f"{_team(team)}/unarchive"))

    def limit_storage(self, team: str, limit_bytes: int | None) -> TeamView:
        """Set how much the files of a team's experiments may take; None is no limit. For administrators."""
        body = encode_json({"limit_bytes": limit_bytes}, "limit_bytes")
        answer = self._transport.send("PUT", f"{_team(team)}/storage", None, body, JSON)
        return self._transport.parse_response(TeamView, answer)

    def set_member(self, team: str, login: str, role: Role) -> TeamView:
        """Add a person to a team, or change their role. For its managers."""
        answer = self._transport.send("PUT", _member(team, login), None, encode_json({"role": role}, "role"), JSON)
        return self._transport.parse_response(TeamView, answer)

    def remove_member(self, team: str, login: str) -> None:
        """Remove a person from a team. For its managers."""
        self._transport.send("DELETE", _member(team, login))

    def users(self) -> list[UserView]:
        """All people. For administrators."""
        return self._transport.get(UserList, f"{API_PREFIX}/users").items

    def create_user(
        self,
        login: str,
        *,
        name: str | None = None,
        email: str | None = None,
        password: str | None = None,
        admin: bool = False,
    ) -> UserView:
        """Create an account. For administrators."""
        body = {"login": login, "name": name, "email": email, "password": password, "admin": admin}
        return self._post(UserView, "users", body)

    def change_password(self, old: str, new: str) -> None:
        """Change the caller's own password."""
        self._transport.send(
            "POST", f"{API_PREFIX}/auth/password", None, encode_json({"old": old, "new": new}, "body"), JSON
        )

    def change_user(self, login: str, **changes: Any) -> UserView:
        """Change `name`, `email`, `password`, `admin` or `disabled` of an account. For administrators."""
        address = f"{API_PREFIX}/users/{path_part(login, 'login')}"
        answer = self._transport.send("PATCH", address, None, encode_json(changes, "changes"), JSON)
        return self._transport.parse_response(UserView, answer)

    def audit(
        self, *, team: str | None = None, object_id: str | None = None, limit: int | None = None
    ) -> Iterator[AuditEntry]:
        """The audit log, the newest entry first: of a team that the caller manages, or of all for administrators."""
        left = None if limit is None else whole_number(limit, "limit")
        after: int | None = None
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            query = {"team": team, "object": object_id, "limit": size, "after": after}
            page = self._transport.get(AuditPage, f"{API_PREFIX}/audit", query)
            yield from page.items
            after = page.next_after
            left = None if left is None else left - len(page.items)
            if after is None:
                return

    def _post(self, cls: type[V], path: str, body: Mapping[str, Any]) -> V:
        given = {name: value for name, value in body.items() if value is not None}
        answer = self._transport.send("POST", f"{API_PREFIX}/{path}", None, encode_json(given, "body"), JSON)
        return self._transport.parse_response(cls, answer)


def _team(team: str) -> str:
    return f"{API_PREFIX}/teams/{path_part(team, 'team')}"


def _member(team: str, login: str) -> str:
    return f"{_team(team)}/members/{path_part(login, 'login')}"
