"""Connections from which nothing comes back end by a deadline, and the request is not repeated where that is not safe.

The service's own clients are in test_connections; the driver's connections in tests/workers/test_driver_connections.py.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from search_spaces.protocol import METRICS, RunStatus
from service.adapters.launcher import ClusterUnreachableError
from service.adapters.launchers.ray_jobs import RayLauncher
from service.adapters.mlflow_client import MlflowClient
from service.client import Client, UnreachableError
from service.contract.errors import UnavailableError
from service.settings import Settings
from service.store import database
from service.store.database import Database, DatabaseUnusableError
from tests.support.contracts.launcher import launch_config
from tests.support.half_open import cut_off_address, silent_server
from tests.support.handlers import QuietHandler, handling
from tests.support.postgres import Postgres
from tests.support.ray_requests import every_request

TIMEOUT_S = 1.0  # a busy machine must connect within it
OPTIONS = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@contextlib.contextmanager
def client_of(url: str) -> Iterator[Client]:
    with Client(url, timeout_s=TIMEOUT_S, submit_retry_s=0.3, watch_retry_s=0.3) as found:
        yield found


@contextlib.contextmanager
def mlflow_of(url: str) -> Iterator[MlflowClient]:
    with closing(MlflowClient(Settings(mlflow_tracking_uri=url, mlflow_timeout_s=TIMEOUT_S))) as found:
        yield found


@contextlib.contextmanager
def ray_of(url: str) -> Iterator[RayLauncher]:
    yield RayLauncher(Settings(ray_dashboard_url=url, ray_timeout_s=TIMEOUT_S, ray_submit_timeout_s=2 * TIMEOUT_S))


#: Where the request goes, what is asked, the error, and how many connections it takes.
REQUESTS: list[tuple[Any, Callable[[Any], Any], type[Exception], int]] = [
    (client_of, lambda rung: rung.ping(), UnreachableError, 1),
    (client_of, lambda rung: rung.get("x"), UnreachableError, 1),
    (client_of, lambda rung: rung.cancel("x"), UnreachableError, 1),
    (client_of, lambda rung: rung.submit({"name": "x"}), UnreachableError, 2),  # it has an Idempotency-Key
    (client_of, lambda rung: next(rung.watch("x")), UnreachableError, 2),
    (client_of, lambda rung: next(rung.follow_logs("x")), UnreachableError, 2),
    (mlflow_of, lambda mlflow: mlflow.ping(), UnavailableError, 1),
    (mlflow_of, lambda mlflow: mlflow.find_runs(["1"], ["x"]), UnavailableError, 1),
    (mlflow_of, lambda mlflow: mlflow.end_run("x", RunStatus.FINISHED, {}, NOW), UnavailableError, 1),
    (mlflow_of, lambda mlflow: mlflow.curves("x", METRICS[:1]), UnavailableError, 1),
    (mlflow_of, lambda mlflow: mlflow.delete_artifacts("mlflow-artifacts:/1/x/artifacts", "x"), UnavailableError, 1),
    (ray_of, lambda ray: ray.cluster(), ClusterUnreachableError, 1),
]


@pytest.mark.parametrize(("connecting", "ask", "error", "attempts"), REQUESTS)
def test_a_server_that_never_answers_is_abandoned(
    connecting: Any, ask: Callable[[Any], Any], error: type[Exception], attempts: int
) -> None:
    with silent_server() as server, connecting(server.url) as client:
        with pytest.raises(error):
            ask(client)
        assert server.attempts() == attempts


@pytest.mark.parametrize(("connecting", "ask", "error"), [REQUESTS[n][:3] for n in (0, 6, -1)])
def test_a_server_that_takes_no_connection_is_abandoned(
    connecting: Any, ask: Callable[[Any], Any], error: type[Exception]
) -> None:
    with cut_off_address() as url, connecting(url) as client, pytest.raises(error):
        ask(client)


def test_every_request_to_ray_has_a_deadline(tmp_path: Path) -> None:
    """Ray answers the first, which asks for its version."""
    asked: list[str] = []
    ended = threading.Event()

    class OnlyItsVersion(QuietHandler):
        def respond(self) -> None:
            if self.path == "/api/version":
                self.answer(200, b'{"ray_version": "2.60.0"}')
            else:
                asked.append(f"{self.command} {self.path.partition('?')[0]}")
                ended.wait()

    with handling(OnlyItsVersion) as url, ray_of(url) as ray:
        launch = launch_config(tmp_path)
        requests = every_request(ray, launch)
        for request in requests:
            with pytest.raises(ClusterUnreachableError):
                request()
        ended.set()
    jobs = ["GET /api/jobs/x", "POST /api/jobs/x/stop", "GET /api/jobs/x/logs", "POST /api/jobs/"]
    assert asked == ["GET /api/v0/nodes", "GET /nodes", *jobs]


def test_a_database_that_never_answers_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(database.POSTGRESQL_DEADLINES, "connect_timeout", 2)  # the least that psycopg takes
    with silent_server() as server:
        with pytest.raises(DatabaseUnusableError, match="timeout"):
            Database.open(f"postgresql+psycopg://rung@127.0.0.1:{server.port}/rung")
        assert server.attempts() == 1


def test_a_connection_to_postgresql_ends_once_it_is_cut_off(postgres: Postgres) -> None:
    """The system ends it by these options. An option in the URL replaces Rung's."""
    expected = {"": (10, 5, 3, 25_000), "?keepalives_idle=7&tcp_user_timeout=9000": (7, 5, 3, 9_000)}
    for options, values in expected.items():
        url = postgres.url("postgres").replace("postgresql", "postgresql+psycopg", 1) + options
        with closing(Database(url)) as opened, opened.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            with socket.socket(fileno=os.dup(driver.fileno())) as raw:
                assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert tuple(raw.getsockopt(socket.IPPROTO_TCP, option) for option in OPTIONS) == values
