"""Errors as a client sees them: their kinds, and failures of the database."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service.api.thread_pools import PEOPLE_THREADS
from service.app import create_app
from service.context import AppContext
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from service.store import database
from service.store.database import Database, DatabaseFileLostError, DatabaseUnusableError
from tests.support.memory_launcher import MemoryLauncher
from tests.support.postgres import Postgres
from tests.support.server import serving
from tests.support.world import World

EXPERIMENTS = "/api/v1/experiments"


@pytest.fixture
def latin1(postgres: Postgres) -> Iterator[str]:
    """A database that version 0.1 accepted."""
    postgres.execute("CREATE DATABASE latin1 ENCODING 'LATIN1' TEMPLATE template0")
    url = postgres.url("latin1").replace("postgresql:", "postgresql+psycopg:")
    older = Database(url)
    older.migrate()
    older.close()
    yield url
    postgres.drop("latin1")


def test_a_character_that_an_older_database_lacks_is_named(
    latin1: str, settings: Settings, launcher: MemoryLauncher
) -> None:
    with serving(create_app(settings.model_copy(update={"database_url": latin1}), launcher)) as client:
        assert client.post(EXPERIMENTS, json={"name": "x"}).status_code == 201
        for answer in (
            client.get(EXPERIMENTS, params={"label": "日本語"}),
            client.post(EXPERIMENTS, json={"name": "x", "labels": ["日本語"]}),
        ):
            assert answer.status_code == 422
            assert "the encoding of the service's database lacks a character" in answer.json()["detail"]
        assert len(client.get(EXPERIMENTS).json()["items"]) == 1


def test_a_full_disk_of_the_database_is_507_and_changes_nothing(
    world: World, context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = world.started()
    before = [item["id"] for item in world.client.get(EXPERIMENTS).json()["items"]]
    with context.database.engine.connect() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
    context.database.close()  # the limit holds for new connections
    limit = [pages + 2]

    @event.listens_for(context.database.engine, "connect")
    def _limit(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={limit[0]}")

    answers = [world.client.post(EXPERIMENTS, json={"name": f"n{n}", "labels": ["a" * 60]}) for n in range(20)]
    accepted = [answer.json()["id"] for answer in answers if answer.status_code == 201]
    refused = [answer for answer in answers if answer.status_code != 201]
    assert refused
    for answer in refused:
        assert (answer.status_code, answer.headers["content-type"]) == (507, "application/problem+json")
        assert answer.json()["detail"] == "the disk of the database is full; nothing was changed"
    ready = world.client.get("/readyz")
    why = "the disk of the database is full"
    assert (ready.status_code, ready.json()["database"]) == (503, {"ok": False, "detail": why, "why": why})
    with context.database.write() as session:
        session.execute(text("UPDATE experiments SET revision = revision"))
    assert world.client.get("/readyz").status_code == 503, "a small write fits into the pages that there are"
    line = world.line(0, parameters={f"p{n}": "x" * 500 for n in range(50)})
    assert world.beat(running, {"phase": "searching", "trials": [line]}).status_code == 507
    listed = [item["id"] for item in world.client.get(EXPERIMENTS).json()["items"]]
    assert sorted(listed) == sorted(before + accepted)
    assert world.client.get(f"{EXPERIMENTS}/{running}/trials").json()["items"] == []
    limit[0] = 10**6
    context.database.close()
    assert world.beat(running, {"phase": "searching", "trials": [line]}).status_code == 200
    assert world.show(running)["trials"] == {"RUNNING": 1}
    monkeypatch.setattr(database, "FULL_S", 0.0)
    assert world.client.get("/readyz").json()["ready"]


def read_at_once(database: Database, sessions: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(sessions):
            stack.enter_context(database.read()).execute(text("SELECT count(*) FROM experiments"))


@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_accepted_or_started_once_the_file_of_the_database_is_gone(
    world: World, context: AppContext, reconciler: Reconciler, tmp_path: Path, replaced: bool
) -> None:
    submitted = world.submit()
    assert (tmp_path / "rung.db-wal").stat().st_size, "what was committed is in the log"
    kept = (tmp_path / "rung.db").rename(tmp_path / "kept.db")
    if replaced:
        shutil.copy(kept, tmp_path / "rung.db")
    lost = "the file of the database was deleted or replaced"
    answer = world.client.post(EXPERIMENTS, json={"name": "x"})
    assert (answer.status_code, answer.json()["detail"]) == (503, f"{lost}; nothing was changed")
    ready = world.client.get("/readyz")
    assert (ready.status_code, ready.json()["database"]["detail"]) == (503, f"{lost}; the log of the service says why")
    with pytest.raises(DatabaseFileLostError, match=r"rung\.db was deleted or replaced while the service ran"):
        reconciler.reconcile_once()
    assert not world.launcher.jobs
    with pytest.raises(DatabaseFileLostError):
        read_at_once(context.database, 1 + context.database.engine.pool.checkedin())
    kept.rename(tmp_path / "rung.db")
    assert world.client.get("/readyz").json()["ready"]
    reconciler.reconcile_once()
    assert len(world.launcher.jobs) == 1
    assert [item["id"] for item in world.client.get(EXPERIMENTS).json()["items"]] == [submitted]


def test_a_home_that_is_no_folder_any_more_is_a_lost_database(world: World, tmp_path: Path) -> None:
    home = tmp_path.rename(tmp_path.with_name(f"{tmp_path.name}-moved"))
    tmp_path.touch()
    try:
        assert world.client.post(EXPERIMENTS, json={"name": "x"}).status_code == 503
        assert world.client.get("/readyz").status_code == 503
    finally:
        tmp_path.unlink()
        home.rename(tmp_path)
    assert world.client.get("/readyz").json()["ready"]


def test_writes_whose_database_is_missing_at_the_start_are_not_lost(tmp_path: Path) -> None:
    """SQLite would make a new database, and empty the write-ahead log of the missing one."""
    opened = Database.open(f"sqlite:///{tmp_path / 'rung.db'}")
    kept = (tmp_path / "rung.db").rename(tmp_path / "kept.db")
    with pytest.raises(DatabaseUnusableError, match=r"rung\.db-wal has writes of a database that is missing; put rung"):
        Database.open(f"sqlite:///{tmp_path / 'rung.db'}")
    kept.rename(tmp_path / "rung.db")
    opened.close()
    Database.open(f"sqlite:///{tmp_path / 'rung.db'}").close()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_unavailable_database_is_503_until_it_is_back(world: World, postgres: Postgres) -> None:
    one = world.submit()
    postgres.stop("immediate")
    for answer in (world.client.get(f"{EXPERIMENTS}/{one}"), world.client.post(EXPERIMENTS, json={"name": "x"})):
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert answer.headers["retry-after"] == "2"
    ready = world.client.get("/readyz")
    why = "the database does not answer; the log of the service says why"
    assert (ready.status_code, ready.json()["database"]) == (503, {"ok": False, "detail": why, "why": why})
    postgres.start()
    assert [item["id"] for item in world.client.get(EXPERIMENTS).json()["items"]] == [one]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_became_read_only_is_503_until_it_takes_writes(
    world: World, context: AppContext, postgres: Postgres
) -> None:
    """As after a failover, where the server that was the primary is a standby now."""
    one = world.submit()
    name = context.database.engine.url.database
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    postgres.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    for _ in range(3):
        answer = world.client.post(EXPERIMENTS, json={"name": "x"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json()["detail"] == "the database is read-only; nothing was changed"
        assert world.client.get(f"{EXPERIMENTS}/{one}").status_code == 200
    ready = world.client.get("/readyz")
    why = "the database is read-only; the log of the service says why"
    assert (ready.status_code, ready.json()["database"]) == (503, {"ok": False, "detail": why, "why": why})
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = off")
    assert world.client.get("/readyz").json()["ready"]
    assert world.client.post(EXPERIMENTS, json={"name": "x"}).status_code == 201


def test_a_file_that_became_read_only_is_503_until_it_takes_writes(world: World, context: AppContext) -> None:
    read_only = ["ON"]

    @event.listens_for(context.database.engine, "connect")
    def _refuse_writes(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA query_only={read_only[0]}")

    context.database.close()
    answer = world.client.post(EXPERIMENTS, json={"name": "x"})
    assert (answer.status_code, answer.json()["detail"]) == (503, "the database is read-only; nothing was changed")
    ready = world.client.get("/readyz")
    assert (ready.status_code, ready.json()["ready"]) == (503, False)
    read_only[0] = "OFF"
    assert world.client.post(EXPERIMENTS, json={"name": "x"}).status_code == 201
    assert world.client.get("/readyz").json()["ready"]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_locked_table_is_503_after_a_time_and_does_not_hold_up_readiness(
    world: World, context: AppContext, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(context.database.engine.url.database)
    with psycopg.connect(postgres.url(name)) as locking:
        locking.execute("LOCK TABLE experiments")
        with monkeypatch.context() as patched:
            patched.setattr(database, "LOCK_TIMEOUT_S", 0.1)
            context.database.close()  # the limit holds for new connections
            answer = world.client.get(EXPERIMENTS)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        context.database.close()
        with ThreadPoolExecutor(PEOPLE_THREADS) as clients:
            answers = [clients.submit(world.client.get, EXPERIMENTS, timeout=60) for _ in range(PEOPLE_THREADS)]
            waiting, deadline = 0, time.monotonic() + 30
            with psycopg.connect(postgres.url(name), autocommit=True) as looking:
                while waiting < PEOPLE_THREADS and time.monotonic() < deadline:
                    (waiting,) = looking.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() or (0,)
            assert waiting == PEOPLE_THREADS
            assert world.client.get("/readyz", timeout=5).json()["ready"]
            locking.rollback()
            assert {answer.result().status_code for answer in answers} <= {200, 503}


def test_a_pool_without_a_free_connection_is_503(
    world: World, context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any) -> None:
        raise PoolTimeoutError("QueuePool limit of size 10 overflow 30 reached, connection timed out")

    with monkeypatch.context() as patched:
        patched.setattr(context.database.engine.pool, "connect", exhausted)
        assert world.client.get(EXPERIMENTS).status_code == 503


ERRORS = [
    ("GET", "/api/v1/nowhere", {}, 404, "Not found", "path"),
    ("GET", f"{EXPERIMENTS}/k3v9q2mz", {}, 404, "Not found", "experiment_id"),
    ("GET", "/api/v1/presets/digits-quik", {}, 404, "Not found", "name"),
    ("PUT", EXPERIMENTS, {}, 405, "Method not allowed", "method"),
    ("POST", EXPERIMENTS, {"Content-Type": "text/html"}, 415, "Unsupported media type", "Content-Type"),
    ("PATCH", f"{EXPERIMENTS}/k3v9q2mz", {"Content-Type": "text/html"}, 415, "Unsupported media type", "Content-Type"),
    ("POST", f"{EXPERIMENTS}/k3v9q2mz/pause", {"If-Match": "3"}, 400, "Bad request", "If-Match"),
    ("GET", f"{EXPERIMENTS}?limit=0", {}, 422, "Validation failed", "limit"),
    ("POST", "/api/v1/attempts/exp-k3v9q2mz-a1/heartbeat", {}, 401, "Authentication required", "Authorization"),
    ("GET", "/healthz", {"Origin": "https://other.example"}, 403, "Forbidden", "Origin"),
    ("GET", "/healthz", {"Host": "other.example"}, 400, "Bad request", "Host"),
]


@pytest.mark.parametrize(("method", "path", "headers", "status", "title", "field"), ERRORS)
def test_an_error_names_its_kind_and_its_field(
    client: httpx.Client, method: str, path: str, headers: dict[str, str], status: int, title: str, field: str
) -> None:
    response = client.request(method, path, headers=headers, content=b'{"phase": "searching"}')
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["title"] == title
    (error,) = response.json()["errors"]
    assert error["field"] == field


def test_many_problems_are_answered_with_the_first_ones(client: httpx.Client) -> None:
    document = client.get(EXPERIMENTS, params={f"f{n}": "1" for n in range(60)}).json()
    assert len(document["errors"]) == 51
    assert document["errors"][-1]["rule"] == "and 10 more problems"
    assert "(and 59 more)" in document["detail"]
