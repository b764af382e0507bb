"""A service with accounts, and an MLflow with workspaces that asks it who may do what."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from search_spaces.experiment import ExperimentSpec
from service.adapters.launcher import Launcher
from service.adapters.mlflow_client import WORKSPACE_HEADER
from service.adapters.mlflow_workspaces import MlflowWorkspaces
from service.app import build_app, open_context
from service.context import AppContext
from service.domain import attempts, experiments
from service.domain.experiments import Belonging
from service.settings import AuthMode, Settings
from service.store.leases import HeldLease
from tests.support.accounts import Accounts
from tests.support.real_mlflow import ADMIN, PASSWORD, free_port, running_mlflow, serving_process
from tests.support.server import serving

HELD = HeldLease("queue", "test", 1, 15.0)


@dataclass(eq=False)
class TeamMlflow:
    """Both servers. `credentials` of callers, by name: what they send as name and as password."""

    url: str
    context: AppContext
    http: httpx.Client
    service: str
    home: Path
    running: ExitStack
    credentials: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def accounts(self) -> Accounts:
        return Accounts(self.context.database)

    @property
    def workspaces(self) -> MlflowWorkspaces:
        return MlflowWorkspaces(self.context.database, self.context.mlflow, lambda: HELD)

    def start(self) -> None:
        """Start MLflow. It has no workspaces of teams at first."""
        self.running.enter_context(running_mlflow(self.home, self.service, httpx.URL(self.url).port or 0))

    def stop(self) -> None:
        """Stop MLflow."""
        self.running.close()

    def driver(self, team: str) -> tuple[str, str]:
        """What the driver of a new experiment of a team sends."""
        with self.context.database.write() as session:
            one = experiments.submit(session, ExperimentSpec(name="x"), [], belonging=Belonging(team))
            one.mlflow_workspace = team
            attempt, token = attempts.start(session, one, 1, datetime.now(UTC))
            return attempt.id, token

    def ask(self, caller: str, method: str, path: str, workspace: str | None, **content: Any) -> httpx.Response:
        """The answer to a caller's request in a workspace."""
        headers = {} if workspace is None else {WORKSPACE_HEADER: workspace}
        return self.http.request(method, path, headers=headers, auth=self.credentials.get(caller), **content)


@contextmanager
def team_mlflow(
    home: Path, launcher: Launcher | None = None, *, in_own_process: bool = False, **settings: Any
) -> Iterator[TeamMlflow]:
    """Both servers, which run for the length of the block. By default the service does nothing by itself.

    A service that talks to Ray needs a process of its own: Ray reads its token from the environment once per process.
    """
    ports = free_port(), free_port()
    service, url = (f"http://127.0.0.1:{port}" for port in ports)
    defaults: dict[str, Any] = {"reconcile": False, "home": home}
    made = Settings(
        **(defaults | settings),
        auth=AuthMode.ACCOUNTS,
        port=ports[0],
        mlflow_tracking_uri=url,
        mlflow_username=ADMIN,
        mlflow_password=PASSWORD,
        mlflow_workspaces=True,
    )
    context = open_context(made, launcher)
    app = build_app(made, lambda: context)
    with (
        _process(context, service) if in_own_process else serving(app, settings=made, port=made.port),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as http,
        ExitStack() as running,
    ):
        found = TeamMlflow(url, context, http, service, home, running, {"service": (ADMIN, PASSWORD)})
        found.start()
        yield found


@contextmanager
def _process(context: AppContext, url: str) -> Iterator[None]:
    """The service at `url`, in a process that has a context of its own."""
    given = context.settings.model_dump(mode="json", exclude_unset=True)
    environment = os.environ | {f"RUNG_{name.upper()}": str(value) for name, value in given.items()}
    command, log = [sys.executable, "-m", "service.app"], context.settings.home / "service.log"
    with closing(context), serving_process(command, f"{url}/healthz", log, environment):
        yield
