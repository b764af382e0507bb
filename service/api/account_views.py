"""Account views: from rows of people, teams, tokens and the audit log to the bodies of responses. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable

from service.contract.identity import AuditEntry, Member, TeamStorage, TeamView, TokenView, UserView
from service.domain.team_storage import Use
from service.identity.principals import Role
from service.store.accounts import AuditRow, Team, Token, User


def user(row: User) -> UserView:
    return UserView.model_validate(row, from_attributes=True)


def team(row: Team, members: Iterable[tuple[User, Role]] = (), storage: Use | None = None) -> TeamView:
    return TeamView(
        team=row.id,
        name=row.name,
        created_at=row.created_at,
        archived_at=row.archived_at,
        members=[Member(login=one.login, name=one.name, role=role.value) for one, role in members],
        storage=None if storage is None else TeamStorage.model_validate(storage, from_attributes=True),
    )


def token(row: Token) -> TokenView:
    fields = ("id", "name", "kind", "role", "created_at", "expires_at", "last_used_at", "revoked_at")
    return TokenView.model_validate({name: getattr(row, name) for name in fields} | {"team": row.team_id})


def audit_entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        id=row.id,
        at=row.at,
        kind=row.principal_kind,
        principal=row.principal or None,
        token_id=row.token_id,
        address=row.address or None,
        request_id=row.request_id or None,
        action=row.action,
        team=row.team_id,
        object=row.object or None,
        outcome=row.outcome,
        change=row.change,
    )
