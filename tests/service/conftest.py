"""A real database, the real application on a real port, and a cluster held in memory in place of Ray.

The database is a SQLite file; modules marked `stores` run over a real PostgreSQL too, those
marked `stores(slow=True)` in `make test-slow` only: their statements are those of others.
"""

from __future__ import annotations

import functools
import shutil
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import Engine, event

from service.adapters.launcher import Launcher
from service.app import build_app, create_app, open_context
from service.context import AppContext
from service.scheduling.reconciler import Reconciler
from service.settings import AuthMode, Settings
from service.store.database import Database
from tests.support.accounts import Accounts
from tests.support.clock import Clock
from tests.support.documented import DocumentedResponses
from tests.support.memory_launcher import MemoryLauncher
from tests.support.openid_provider import OpenIdProvider, openid_provider
from tests.support.postgres import Postgres
from tests.support.server import serving
from tests.support.world import World

STORES = ("sqlite", "postgresql")
#: 32 bytes in base64.
SECRET_KEY = "c2VjcmV0" * 5 + "c2U="
#: Settings that an application has from the moment when it is built.
BUILT_IN = ("max_body_bytes", "max_heartbeat_bytes", "max_requests", "request_timeout_s", "hosts")


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_disks_or_certificates() -> Iterator[None]:
    """SQLite's data need not survive a power failure; HTTPX reads all certificates for each client."""

    def connected(connection: Any, _record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", connected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield
    event.remove(Engine, "connect", connected)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given = {name for mark in metafunc.definition.iter_markers("parametrize") for name in mark.args[:1]}
    marked = metafunc.definition.get_closest_marker("stores")
    if marked is not None and "database_url" in metafunc.fixturenames and "database_url" not in given:
        marks = [pytest.mark.slow] if marked.kwargs.get("slow") else []
        stores = [one if one == "sqlite" else pytest.param(one, marks=marks) for one in STORES]
        metafunc.parametrize("database_url", stores, indirect=True)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database of the newest schema, to be copied: a copy takes a fifth of the time of the migrations."""
    path = tmp_path_factory.mktemp("migrated") / "rung.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    database.close()
    return path


@pytest.fixture(scope="session")
def migrated(postgres: Postgres) -> str:
    """A PostgreSQL database of the newest schema, to be copied."""
    name = postgres.create()
    database = Database(_sqlalchemy(postgres.url(name)))
    database.migrate()
    database.close()
    return name


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The SQLAlchemy URL of a database of this test's own."""
    if getattr(request, "param", "sqlite") == "sqlite":
        path = tmp_path / "rung.db"
        shutil.copy(request.getfixturevalue("migrated_file"), path)
        yield f"sqlite:///{path}"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    name = postgres.create(template=request.getfixturevalue("migrated"))
    yield _sqlalchemy(postgres.url(name))
    postgres.drop(name)


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path, database_url: str) -> Settings:
    """Of a service that asks for no token; where a test uses `accounts`, of one that knows people."""
    return Settings(
        home=tmp_path,
        database_url=database_url,
        auth=AuthMode.ACCOUNTS if "accounts" in request.fixturenames else AuthMode.OPEN,
        reconcile=False,
        mlflow_tracking_uri="http://127.0.0.1:9",
        mlflow_timeout_s=2,
        secret_key=SECRET_KEY,
        webhook_allowed_targets="127.0.0.1",
    )


@pytest.fixture
def launcher() -> MemoryLauncher:
    return MemoryLauncher()


class SharedApp:
    """One application for all tests: FastAPI takes longer to build one than most tests to use it.

    What it opens when it starts to serve is the test's own, also its settings, except for those that are built in.
    """

    def __init__(self) -> None:
        self._settings = Settings()
        self._opened: Callable[[], AppContext] = lambda: open_context(self._settings)
        self.app = build_app(self._settings, lambda: self._opened())

    def over(self, settings: Settings, launcher: Launcher) -> FastAPI:
        if any(getattr(settings, name) != getattr(self._settings, name) for name in BUILT_IN):
            return create_app(settings, launcher)
        self._opened = lambda: open_context(settings, launcher)
        return self.app


@pytest.fixture(scope="session")
def shared_app() -> SharedApp:
    return SharedApp()


@pytest.fixture
def app(settings: Settings, launcher: MemoryLauncher, shared_app: SharedApp) -> FastAPI:
    return shared_app.over(settings, launcher)


@pytest.fixture(scope="session")
def documented(shared_app: SharedApp) -> DocumentedResponses:
    return DocumentedResponses(shared_app.app.openapi())


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
def accounts(context: AppContext) -> Accounts:
    """The people, programs and teams of the service, which then asks for a token."""
    return Accounts(context.database)


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


@pytest.fixture(scope="module")
def running_provider() -> Iterator[OpenIdProvider]:
    """An OpenID provider process for the tests of a module."""
    with openid_provider() as provider:
        yield provider


@pytest.fixture
def provider(running_provider: OpenIdProvider) -> OpenIdProvider:
    """A provider that behaves."""
    running_provider.behave()
    return running_provider
