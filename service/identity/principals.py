"""Principals: who sends a request, as the service knows them while it answers. It must not know how they proved it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class PrincipalKind(StrEnum):
    """What a caller is. OWNER is the only user of a service with one token, OPEN everybody where none is needed."""

    PERSON = "person"
    SERVICE = "service"
    OWNER = "owner"
    OPEN = "open"


class Role(StrEnum):
    """What a member of a team may do, from the least to the most (`permissions.ROLES`)."""

    VIEWER = "viewer"
    MEMBER = "member"
    MANAGER = "manager"

    def at_most(self, ceiling: Role) -> Role:
        """The lesser of both."""
        order = list(Role)
        return min(self, ceiling, key=order.index)


@dataclass(frozen=True)
class TokenInUse:
    """The token that came with the request. `signed_in`: it was not made with another token."""

    id: str
    name: str
    expires_at: datetime | None
    signed_in: bool = True

    def outlived_by(self, expires_at: datetime) -> bool:
        """Whether a token that expires then would be worth more than this one, which may be in wrong hands."""
        return not self.signed_in and self.expires_at is not None and expires_at > self.expires_at


@dataclass(frozen=True)
class Principal:
    """A caller. `id` is short and never changes: a user's, a service token's, or empty without accounts.

    `login` is what others read. `roles` are those in the teams of the caller, by the id of the team. `is_restricted`:
    the token of a person was made for one team, or for at most one role. `archived` are those teams of `roles` in which
    everybody can only read.
    """

    kind: PrincipalKind
    id: str = ""
    login: str = ""
    user_id: str | None = None
    admin: bool = False
    roles: Mapping[str, Role] = field(default_factory=dict)
    token: TokenInUse | None = None
    is_restricted: bool = False
    archived: frozenset[str] = frozenset()

    @property
    def has_account(self) -> bool:
        return self.kind in {PrincipalKind.PERSON, PrincipalKind.SERVICE}
