"""The service as a whole: its threads start and end with it, and what keeps it from starting is one clear message."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from search_spaces.protocol import LaunchConfig
from service.app import create_app, main
from service.settings import Settings
from service.store.database import Database
from tests.support.memory_launcher import MemoryLauncher


class Watched:
    """A launcher that reports when it was asked to launch."""

    def __init__(self, launcher: MemoryLauncher) -> None:
        self._launcher = launcher
        self.launched = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launcher, name)

    def launch(self, launch: LaunchConfig) -> None:
        self._launcher.launch(launch)
        self.launched.set()


@pytest.fixture
def watched(launcher: MemoryLauncher) -> Watched:
    return Watched(launcher)


@pytest.fixture
def app(settings: Settings, watched: Watched) -> FastAPI:
    return create_app(Settings(**{**settings.model_dump(), "reconcile": True, "reconcile_s": 3600}), watched)


def test_a_post_wakes_the_reconciler(client: httpx.Client, watched: Watched) -> None:
    assert client.post("/api/v1/experiments", json={"name": "x"}).status_code == 201
    assert watched.launched.wait(10), "the reconciler was not woken"


def test_the_threads_of_the_queue_end_with_the_service(app: FastAPI) -> None:
    names = {"reconciler", "cleanup"}

    async def run() -> None:
        async with app.router.lifespan_context(app):
            assert names <= {thread.name for thread in threading.enumerate()}

    asyncio.run(run())
    assert not names & {thread.name for thread in threading.enumerate()}


def start(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What `python -m service.app` prints when it cannot start in this environment."""
    for name in [name for name in os.environ if name.startswith("RUNG_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(logging.root.manager, "disable", logging.INFO)  # handlers that other tests have left print too
    with contextlib.redirect_stderr(io.StringIO()) as stream, pytest.raises(SystemExit) as exit:
        main()
    printed = stream.getvalue().rstrip()
    assert exit.value.code == 2 or not printed
    return printed or str(exit.value)


def test_all_invalid_and_misspelled_settings_are_reported_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    printed = start(
        monkeypatch,
        RUNG_HOME=str(tmp_path),
        RUNG_HEARTBEAT="1",
        RUNG_PORT="70000",
        RUNG_LEASE_S="soon",
        RUNG_LAUNCHER="slurm",
        RUNG_MLFLOW_TRACKING_URI="postgresql://ada:secret@db/mlflow",
    )
    assert printed.splitlines() == [
        "RUNG_HEARTBEAT: there is no such setting; did you mean RUNG_HEARTBEAT_S?",
        "RUNG_PORT: must be at most 65535 (got '70000')",
        "RUNG_LAUNCHER: must be one of ray_jobs (got 'slurm')",
        "RUNG_MLFLOW_TRACKING_URI: must be the http:// or https:// URL of an MLflow server (got postgresql:...); "
        "run `mlflow server --backend-store-uri ...` and use its URL",
        "RUNG_LEASE_S: must be a number (got 'soon')",
    ]


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        (
            "postgresql://ada:secret@127.0.0.1:9/rung",
            "RUNG_DATABASE_URL: cannot use the database postgresql+psycopg://ada:***@127.0.0.1:9/rung: ",
        ),
        ("mysql://ada:secret@db/rung", "RUNG_DATABASE_URL: "),
        ("ada:secret", "RUNG_DATABASE_URL: must be a SQLAlchemy URL"),
        ("sqlite://", "RUNG_DATABASE_URL: must name a SQLite file"),
        ("sqlite:////proc/rung/rung.db", "RUNG_DATABASE_URL: "),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, printed: str
) -> None:
    error = start(monkeypatch, RUNG_HOME=str(tmp_path), RUNG_DATABASE_URL=url)
    assert error.startswith(printed)
    assert "\n" not in error
    assert "secret" not in error


def test_a_port_in_use_is_found_before_anything_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        error = start(monkeypatch, RUNG_HOME=str(tmp_path), RUNG_PORT=str(port))
    assert error == f"RUNG_HOST, RUNG_PORT: cannot listen on 127.0.0.1 port {port}: Address already in use"
    assert not list(tmp_path.iterdir()), "neither a database nor a folder"


def limited(ulimit: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python process that may open few files."""
    return subprocess.run(
        ["bash", "-c", f'ulimit {ulimit}; exec "$@"', "-", sys.executable, *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_more_connections_than_files_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    done = limited("-n 256", "-m", "service.app", RUNG_HOME=str(tmp_path))
    assert done.returncode == 1
    [said] = done.stderr.splitlines()
    assert said == (
        "RUNG_MAX_CONNECTIONS: 500 connections need 700 open files, and this process may have 256: raise its limit "
        "(ulimit -n), or lower the setting"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("soft", "expected"), [(256, 700), (2_000, 2_000)])
def test_the_limit_of_open_files_is_raised_as_far_as_it_must_be(soft: int, expected: int) -> None:
    code = (
        "import resource; from service import app; from service.settings import Settings\n"
        "app._allow_files(Settings())\n"
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = limited(f"-n 3000; ulimit -S -n {soft}", "-c", code)
    assert done.stdout.split() == [str(expected), "3000"], done.stderr


def test_a_file_that_is_not_a_database_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "rung.db").write_text("else " * 999)
    error = start(monkeypatch, RUNG_HOME=str(tmp_path))
    assert error == f"RUNG_DATABASE_URL: cannot use the database sqlite:///{tmp_path}/rung.db: file is not a database"


def test_a_database_of_a_newer_version_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Database.open(f"sqlite:///{tmp_path}/rung.db").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "rung.db")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    error = start(monkeypatch, RUNG_HOME=str(tmp_path))
    assert "its schema is unknown to this version of Rung" in error
