"""A real database, the real application on a real port, and a cluster held in memory in place of Ray.

The database is a SQLite file; modules marked `stores` run over a real PostgreSQL too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from service.app import create_app
from service.context import AppContext
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from service.store.database import Database
from tests.support.clock import Clock
from tests.support.documented import DocumentedResponses
from tests.support.memory_launcher import MemoryLauncher
from tests.support.postgres import Postgres
from tests.support.server import serving
from tests.support.world import World

STORES = ("sqlite", "postgresql")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given = {name for mark in metafunc.definition.iter_markers("parametrize") for name in mark.args[:1]}
    marked = metafunc.definition.get_closest_marker("stores") is not None
    if marked and "database_url" in metafunc.fixturenames and "database_url" not in given:
        metafunc.parametrize("database_url", STORES, indirect=True)


@pytest.fixture(scope="session")
def migrated(postgres: Postgres) -> str:
    """A database of the newest schema, to be copied."""
    name = postgres.create()
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
    postgres: Postgres = request.getfixturevalue("postgres")
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


@pytest.fixture
def app(settings: Settings, launcher: MemoryLauncher) -> FastAPI:
    return create_app(settings, launcher)


@pytest.fixture(scope="session")
def documented() -> DocumentedResponses:
    """The document is the same for every application, and takes a while to build."""
    return DocumentedResponses(create_app(Settings()).openapi())


@pytest.fixture
def client(app: FastAPI, documented: DocumentedResponses) -> Iterator[httpx.Client]:
    """An HTTP client of the application. Each response must be documented."""
    with serving(app, documented) as client:
        yield client


@pytest.fixture
def context(app: FastAPI, client: httpx.Client) -> AppContext:
    found: AppContext = app.state.context
    return found


@pytest.fixture
def reconciler(context: AppContext) -> Reconciler:
    return Reconciler(context)


def _sqlalchemy(url: str) -> str:
    return Settings(database_url=url).sqlalchemy_url


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def world(client: httpx.Client, launcher: MemoryLauncher, reconciler: Reconciler) -> World:
    return World(client, launcher, reconciler)
