"""MLflow users: under which name a caller acts in MLflow, and what that name may do there. Pure: no HTTP, no database.

Each team has a workspace in MLflow, with one user for each role of the team and one for drivers; people and programs
have no user of their own there. A user has rights in its own workspace only, so that who acts under it reaches
nothing else, and what somebody may do follows from the role in Rung at that moment: nothing is left behind in MLflow
when it changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from service.identity.principals import Principal, Role

#: Between the team and the role in the name of a user. Logins and short names of teams do not have it.
SEPARATOR = "~"
DRIVER = "driver"

#: What a user may do with all resources of a kind in its workspace, by role. USE of the workspace is to create; EDIT
#: is not to delete. Who creates something may delete it. Drivers delete runs of trials that the journal has lost.
GRANTS: Mapping[str, Mapping[str, str]] = {
    Role.VIEWER: {"experiment": "READ", "registered_model": "READ"},
    Role.MEMBER: {"workspace": "USE", "experiment": "EDIT", "registered_model": "EDIT"},
    Role.MANAGER: {"workspace": "USE", "experiment": "MANAGE", "registered_model": "MANAGE"},
    DRIVER: {"workspace": "USE", "experiment": "MANAGE", "registered_model": "EDIT"},
}


def user(workspace: str, role: str) -> str:
    """The name of the user of MLflow with this role in a workspace."""
    return f"{workspace}{SEPARATOR}{role}"


def users_of(principal: Principal, teams: Iterable[str]) -> dict[str, str]:
    """Under which user a caller acts in each workspace; `teams` are all teams there are."""
    roles = dict.fromkeys(teams, Role.MANAGER) if principal.admin else principal.roles
    return {team: user(team, role) for team, role in sorted(roles.items())}
