"""MLflow workspaces: keeps a workspace for each team in MLflow, with its users, their roles and what these may do.

Owns what there must be. Everything follows from the teams, so that each pass finds what is missing: a team that is new,
what a person removed, and all of it after MLflow lost its database. It must not know who is in a team: nothing in
MLflow depends on it (`mlflow_users`).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from search_spaces.protocol import DEFAULT_TEAM
from service.adapters.mlflow_client import ADMINISTRATION, API, MlflowClient
from service.contract.errors import UnavailableError
from service.identity import mlflow_users, teams
from service.store.database import Database
from service.store.leases import HeldLease
from service.worker import Worker

INTERVAL_S = 5.0
STOP_TIMEOUT_S = 15.0
#: Before the name of a role in MLflow: a workspace has roles of its own.
ROLE_PREFIX = "rung-"

#: The kinds of resources on which a role has permissions, all resources of a kind.
Grants = dict[str, str]

log = logging.getLogger(__name__)


class MlflowWorkspaces(Worker):
    """Nothing is done while `held` returns None."""

    def __init__(self, database: Database, mlflow: MlflowClient, held: Callable[[], HeldLease | None]) -> None:
        super().__init__(
            "mlflow-workspaces",
            interval_s=INTERVAL_S,
            stop_timeout_s=STOP_TIMEOUT_S,
            passing=(UnavailableError, SQLAlchemyError),
            complaint="the workspaces of MLflow were not looked at",
        )
        self._database = database
        self._mlflow = mlflow
        self._held = held
        self._problems: dict[str, str] = {}  # of each team, so that one that lasts is logged once

    def run_once(self) -> None:
        """Make what is missing; an error for one team is logged, and the others get theirs. One request where nothing
        is missing. Raises UnavailableError, SQLAlchemyError."""
        if self._held() is None:
            return
        with self._database.read() as session:
            names = [team.id for team in teams.list_all(session, None)]
        users, problems = self._users(), dict[str, str]()
        for name in names:
            if self._held() is None or self.stopped:
                return  # each team may take the timeouts of an MLflow that does not answer
            if all(
                users.get(mlflow_users.user(name, role), {}).get((name, ROLE_PREFIX + role)) == grants
                for role, grants in mlflow_users.GRANTS.items()
            ):
                continue
            try:
                self._provide(name)
                log.info("MLflow has the workspace of the team %s", name)
            except UnavailableError as error:
                problems[name] = str(error).splitlines()[0]
                if problems[name] != self._problems.get(name):
                    log.warning("the team %s did not get its workspace in MLflow: %s", name, problems[name])
        self._problems = problems

    def _users(self) -> dict[str, dict[tuple[str, str], Grants]]:
        """The roles of each user, by workspace and name."""
        found = self._mlflow.administer("GET", f"{API}/users/list").get("users", [])
        return {
            str(user["username"]): {
                (str(role["workspace"]), str(role["name"])): _grants(role) for role in user["roles"]
            }
            for user in found
        }

    def _provide(self, workspace: str) -> None:
        """Users come last: who has one finds all the rest."""
        inside = self._mlflow.within(workspace)
        if workspace != DEFAULT_TEAM:  # MLflow made that one
            self._mlflow.administer("POST", f"{ADMINISTRATION}/workspaces", {"name": workspace}, exists_ok=True)
        listed = inside.administer("GET", f"{ADMINISTRATION}/roles/list?workspace={workspace}").get("roles", [])
        roles = {str(role["name"]): role for role in listed}
        for role, grants in mlflow_users.GRANTS.items():
            name = ROLE_PREFIX + role
            if name not in roles:
                body = {"workspace": workspace, "name": name, "description": "Kept by Rung."}
                roles[name] = inside.administer("POST", f"{ADMINISTRATION}/roles/create", body)["role"]
            self._set_grants(inside, roles[name], grants)
        for role in mlflow_users.GRANTS:
            user = mlflow_users.user(workspace, role)
            # Nobody knows the password: MLflow asks Rung who acts as this user.
            body = {"username": user, "password": secrets.token_urlsafe(32)}
            self._mlflow.administer("POST", f"{API}/users/create", body, exists_ok=True)
            assigned = {"username": user, "role_id": roles[ROLE_PREFIX + role]["id"]}
            inside.administer("POST", f"{ADMINISTRATION}/roles/assign", assigned, exists_ok=True)

    def _set_grants(self, inside: MlflowClient, role: Mapping[str, Any], wanted: Mapping[str, str]) -> None:
        """Change what differs only: a role that people use is never without its rights."""
        missing = dict(wanted)
        for grant in role.get("permissions", []):
            kind, permission = str(grant["resource_type"]), str(grant["permission"])
            if grant["resource_pattern"] == "*" and missing.get(kind) == permission:
                del missing[kind]
            else:
                removed = {"role_permission_id": grant["id"]}
                inside.administer("DELETE", f"{ADMINISTRATION}/roles/permissions/remove", removed)
        for kind, permission in missing.items():
            body = {"role_id": role["id"], "resource_type": kind, "resource_pattern": "*", "permission": permission}
            inside.administer("POST", f"{ADMINISTRATION}/roles/permissions/add", body)


def _grants(role: Mapping[str, Any]) -> Grants:
    """What a role may do. A permission on one resource, which somebody added, makes it differ from what it must be."""
    return {
        str(one["resource_type"]) + ("" if one["resource_pattern"] == "*" else f" {one['resource_pattern']}"): str(
            one["permission"]
        )
        for one in role.get("permissions", [])
    }
