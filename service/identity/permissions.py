"""Permissions: what may be done, and who may do it in which team. Pure: no HTTP, no database.

A route declares the one permission that it needs. What a role may do is a table. Beyond it, an administrator may do
everything in every team, and a restricted token changes nothing of its owner's account.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from service.identity.principals import Principal, Role


class Permission(StrEnum):
    """What a route needs. The values are part of the interface: refusals and the API's document name them."""

    EXPERIMENT_READ = "experiment.read"
    #: To begin a new experiment with the trials of one; where it goes, EXPERIMENT_SUBMIT is needed too.
    EXPERIMENT_CONTINUE = "experiment.continue"
    EXPERIMENT_SUBMIT = "experiment.submit"
    EXPERIMENT_CHANGE = "experiment.change"
    EXPERIMENT_CANCEL = "experiment.cancel"
    EXPERIMENT_DELETE = "experiment.delete"
    TRIAL_CANCEL = "trial.cancel"
    LOG_READ = "log.read"
    CLUSTER_READ = "cluster.read"
    USAGE_READ = "usage.read"
    TEAM_READ = "team.read"
    TEAM_MANAGE = "team.manage"
    TOKEN_MANAGE = "token.manage"
    AUDIT_READ = "audit.read"
    #: Teams as such, and people.
    TEAM_CREATE = "team.create"
    USER_MANAGE = "user.manage"
    #: How the cluster is shared, and what teams may use of it in a month.
    POOL_MANAGE = "pool.manage"
    BUDGET_MANAGE = "budget.manage"
    #: The parts of the installation and its nodes.
    SERVICE_EXAMINE = "service.examine"
    #: To see one's own account and tokens, and to revoke the token that is used.
    ACCOUNT_USE = "account.use"
    #: One's own password and other tokens.
    ACCOUNT_CHANGE = "account.change"
    #: Only of drivers, who prove it by the token of their attempt.
    ATTEMPT_BEAT = "attempt.beat"


_VIEWER = frozenset(
    {
        Permission.EXPERIMENT_READ,
        Permission.EXPERIMENT_CONTINUE,
        Permission.LOG_READ,
        Permission.CLUSTER_READ,
        Permission.USAGE_READ,
        Permission.TEAM_READ,
    }
)
_MEMBER = _VIEWER | {
    Permission.EXPERIMENT_SUBMIT,
    Permission.EXPERIMENT_CHANGE,
    Permission.EXPERIMENT_CANCEL,
    Permission.EXPERIMENT_DELETE,
    Permission.TRIAL_CANCEL,
}
_MANAGER = _MEMBER | {Permission.TEAM_MANAGE, Permission.TOKEN_MANAGE, Permission.AUDIT_READ}

#: What each role may do in its team.
ROLES: Mapping[Role, frozenset[Permission]] = {Role.VIEWER: _VIEWER, Role.MEMBER: _MEMBER, Role.MANAGER: _MANAGER}
#: What everybody may do who is known, whatever their teams are.
EVERYBODY = frozenset({Permission.ACCOUNT_USE, Permission.ACCOUNT_CHANGE})


def allows(principal: Principal, permission: Permission, team: str | None) -> bool:
    """Whether the principal may do this in a team, or (None) outside of all teams."""
    if permission is Permission.ATTEMPT_BEAT or (permission is Permission.ACCOUNT_CHANGE and principal.is_restricted):
        return False
    if principal.admin or permission in EVERYBODY:
        return True
    role = principal.roles.get(team) if team is not None else None
    return role is not None and permission in ROLES[role]


def allows_somewhere(principal: Principal, permission: Permission) -> bool:
    """Whether the principal may do this in any team, or outside of all."""
    return allows(principal, permission, None) or any(allows(principal, permission, team) for team in principal.roles)


def teams_with(principal: Principal, permission: Permission) -> frozenset[str] | None:
    """The teams in which the principal may do this; None for all teams there are."""
    if principal.admin:
        return None
    return frozenset(team for team in principal.roles if allows(principal, permission, team))


def refusal(principal: Principal, permission: Permission, team: str | None = None) -> str:
    """Why the principal may not do this, and who may."""
    if permission is Permission.ACCOUNT_CHANGE:
        return (
            f"this needs the permission {permission}, which no token has that is restricted to a team or a role: use "
            "another token of yours"
        )
    if team in principal.archived:
        return f"the team {team!r} is archived: its members can read its experiments, and nothing else"
    roles = [f"{role}s" for role in Role if permission in ROLES[role]]
    who = f"{', '.join(roles)} and administrators" if roles else "only administrators"
    archived = ", except in teams that are archived" if roles and principal.archived and team is None else ""
    needs = f"this needs the permission {permission}, which {who} have{archived}"
    role = None if team is None else principal.roles.get(team)
    return f"the token of a {role} of the team {team!r} was sent: {needs}" if role else needs
