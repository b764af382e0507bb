"""A real database, the real application on a real port, and a cluster held in memory in place of Ray.

The database is a SQLite file; modules marked `stores` run over a real PostgreSQL too.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from search_spaces.protocol import LaunchConfig
from service.adapters.launcher import ClusterUnreachableError, JobStatus
from service.app import create_app
from service.context import AppContext
from service.domain.cluster import Cluster, Node
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from service.store.database import Database

STORES = ("sqlite", "postgresql")


class MemoryLauncher:
    """Ray as the reconciler sees it: jobs by id, nodes, and an `away` switch."""

    def __init__(self) -> None:
        self.nodes = Cluster((Node("small", cpus=2), Node("large", cpus=8, gpus=2)))
        self.away = False
        self.full_disk = False
        self.jobs: dict[str, JobStatus] = {}
        self.launches: dict[str, LaunchConfig] = {}
        self.specs: dict[str, dict[str, Any]] = {}
        self.stopped: list[str] = []
        self.printed: dict[str, str] = {}

    def preload(self) -> None:
        pass

    def prepare(self, launch: LaunchConfig, spec: dict[str, Any]) -> None:
        if self.full_disk:
            raise OSError(28, "No space left on device")
        self.launches[launch.attempt_id], self.specs[launch.attempt_id] = launch, spec

    def launch(self, launch: LaunchConfig) -> None:
        self._check()
        self.jobs[launch.attempt_id] = JobStatus.RUNNING

    def status(self, attempt_id: str) -> JobStatus:
        self._check()
        return self.jobs.get(attempt_id, JobStatus.UNKNOWN)

    def stop(self, attempt_id: str) -> None:
        self._check()
        self.stopped.append(attempt_id)

    def logs(self, attempt_id: str) -> str:
        self._check()
        return self.printed.get(attempt_id, "")

    def cluster(self) -> Cluster:
        self._check()
        return self.nodes

    def _check(self) -> None:
        if self.away:
            raise ClusterUnreachableError("connection refused")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given = {name for mark in metafunc.definition.iter_markers("parametrize") for name in mark.args[:1]}
    marked = metafunc.definition.get_closest_marker("stores") is not None
    if marked and "database_url" in metafunc.fixturenames and "database_url" not in given:
        metafunc.parametrize("database_url", STORES, indirect=True)


@pytest.fixture(scope="session")
def migrated(postgres: Any) -> str:
    """A database of the newest schema, to be copied."""
    name: str = postgres.create()
    database = Database(_sqlalchemy(postgres.url(name)))
    database.migrate()
    database.close()
    return name


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The SQLAlchemy URL of a database of this test's own."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield f"sqlite:///{tmp_path / 'deep' / 'rung.db'}"
        return
    postgres = request.getfixturevalue("postgres")
    name = postgres.create(template=request.getfixturevalue("migrated"))
    yield _sqlalchemy(postgres.url(name))
    postgres.drop(name)


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(
        home=tmp_path,
        database_url=database_url,
        reconcile=False,
        mlflow_tracking_uri="http://127.0.0.1:9",
        mlflow_timeout_s=2,
    )


@pytest.fixture
def launcher() -> MemoryLauncher:
    return MemoryLauncher()


@contextmanager
def serving(app: FastAPI) -> Iterator[httpx.Client]:
    """The application on a free port of this machine, and a client of it."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    up = threading.Event()
    startup = server.startup

    async def announce(**options: Any) -> None:
        await startup(**options)
        up.set()

    server.startup = announce  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        if not up.wait(20):
            raise TimeoutError("the application did not start")
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def app(settings: Settings, launcher: MemoryLauncher) -> FastAPI:
    return create_app(settings, launcher)


@pytest.fixture
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with serving(app) as client:
        yield client


@pytest.fixture
def context(app: FastAPI, client: httpx.Client) -> AppContext:
    found: AppContext = app.state.context
    return found


@pytest.fixture
def reconciler(context: AppContext) -> Reconciler:
    return Reconciler(context)


class World:
    """One running service, and the short ways of speaking with it that the tests share."""

    def __init__(self, client: httpx.Client, launcher: MemoryLauncher, reconciler: Reconciler) -> None:
        self.client = client
        self.launcher = launcher
        self.reconciler = reconciler

    def submit(self, **spec: Any) -> str:
        answer = self.client.post("/api/v1/experiments", json={"name": "x", **spec})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def started(self, **spec: Any) -> str:
        """An experiment whose first driver was launched."""
        one = self.submit(**{"resources": {"gpus_per_trial": 0}, **spec})
        self.reconciler.reconcile_once()
        assert self.show(one)["attempt"] == 1
        return one

    def show(self, experiment_id: str) -> dict[str, Any]:
        view: dict[str, Any] = self.client.get(f"/api/v1/experiments/{experiment_id}").json()
        return view

    def post(self, experiment_id: str, verb: str, **headers: str) -> httpx.Response:
        """Ask for a change: pause, resume, cancel, archive ..., under headers such as `if_match`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(f"/api/v1/experiments/{experiment_id}/{verb}", headers=named)

    def cancel(self, experiment_id: str) -> httpx.Response:
        return self.post(experiment_id, "cancel")

    def patch(self, experiment_id: str, **patch: Any) -> httpx.Response:
        return self.client.patch(f"/api/v1/experiments/{experiment_id}", json=patch)

    def ended(self, phase: str = "completed", done: int = 3, **spec: Any) -> str:
        """An experiment whose driver ran so many trials and then said its last word, with the winner if it has one."""
        one = self.started(**spec)
        lines = [self.line(n, state="COMPLETED", best_value=0.5 + n / 100) for n in range(done)]
        self.beat(one, {"phase": "finalizing", "trials": lines})
        winner = self.winner(one) if phase == "completed" and done else None
        answer = self.beat(one, {"phase": phase, "reason": f"it {phase}", "winner": winner})
        assert answer.status_code == 200, answer.text
        return one

    def winner(self, experiment_id: str) -> dict[str, Any]:
        """Its best trial, measured."""
        return {**self.show(experiment_id)["best"], "test_accuracy": 0.5, "test_loss": 0.1}

    def beat(self, experiment_id: str, message: Any, attempt: int = 1) -> httpx.Response:
        """What the driver of an attempt says; text is sent as it is."""
        attempt_id = f"exp-{experiment_id}-a{attempt}"
        return self.client.post(
            f"/api/v1/attempts/{attempt_id}/heartbeat",
            content=message if isinstance(message, str) else json.dumps(message),
            headers={
                "Authorization": f"Bearer {self.launcher.launches[attempt_id].token}",
                "Content-Type": "application/json",
            },
        )

    @staticmethod
    def line(trial: int, **more: Any) -> dict[str, Any]:
        return {"trial": trial, "state": "RUNNING", "epoch": 1, "started_at": 1_700_000_000 + trial, **more}


def _sqlalchemy(url: str) -> str:
    return Settings(database_url=url).sqlalchemy_url


@pytest.fixture
def world(client: httpx.Client, launcher: MemoryLauncher, reconciler: Reconciler) -> World:
    return World(client, launcher, reconciler)
