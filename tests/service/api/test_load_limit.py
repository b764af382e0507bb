"""Load: requests above the limit are refused at once, drivers are heard, and nobody works for a client that left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select, text
from starlette.types import Message, Receive, Scope, Send

from service.api.load_limit import LoadLimitMiddleware
from service.api.thread_pools import AUDIT_THREADS, PEOPLE_THREADS, PEOPLE_WRITERS, ThreadPools
from service.context import AppContext
from service.settings import Settings
from service.store.models import Experiment
from tests.support.raw_http import (
    PATIENCE_S,
    connected,
    parse,
    request,
    rest,
    status_of,
    submission,
    unfinished_submission,
)
from tests.support.server import Server, running

OTHER_ADDRESS = "127.0.0.2"
READ = request("GET", "/api/v1/experiments", "Connection: close")
NOWHERE = request("GET", "/nowhere", "Connection: close")  # needs neither a thread nor the database


@pytest.fixture
def max_requests() -> int:
    return 4


@pytest.fixture
def settings(settings: Settings, max_requests: int) -> Settings:
    return Settings(**{**settings.model_dump(), "max_requests": max_requests})


@pytest.fixture
def server(app: FastAPI, settings: Settings) -> Iterator[Server]:
    with running(app, settings) as server:
        yield server


@contextmanager
def locked_database(app: FastAPI) -> Iterator[None]:
    """Every request that writes waits for the end of the block."""
    context: AppContext = app.state.context
    with context.database.write() as session:
        session.execute(text("SELECT 1"))
        yield


def ask(server: Server, sent: bytes, source: str = "127.0.0.1") -> bytes:
    with connected(server.url, source=source) as raw:
        raw.sendall(sent)
        return rest(raw)


def wait_for_status(server: Server, status: int) -> None:
    """Until a request that takes no time is answered so."""
    deadline = time.monotonic() + PATIENCE_S
    while not ask(server, NOWHERE).startswith(f"HTTP/1.1 {status} ".encode()):
        assert time.monotonic() < deadline, f"no request is answered {status}"


def test_requests_above_the_limit_are_refused_at_once(server: Server, app: FastAPI) -> None:
    with ExitStack() as clients:
        waiting = []
        with locked_database(app):
            for source in ("127.0.0.1", OTHER_ADDRESS):
                for number in range(2):
                    raw = clients.enter_context(connected(server.url, source=source))
                    raw.sendall(submission(f"{source}-{number}"))
                    waiting.append(raw)
            wait_for_status(server, 503)
            for source in ("127.0.0.1", OTHER_ADDRESS, "127.0.0.3"):
                status, headers, problem = parse(ask(server, submission(), source))
                assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
                assert headers["content-type"] == "application/problem+json"
                assert "requests" in problem["detail"]
            for path in ("/healthz", "/metrics"):
                assert ask(server, request("GET", path, "Connection: close")).startswith(b"HTTP/1.1 200 ")
        assert [status_of(raw) for raw in waiting] == [201] * 4
    wait_for_status(server, 404)


def test_one_address_has_half_of_the_requests(server: Server, app: FastAPI) -> None:
    with ExitStack() as clients, locked_database(app):
        for _ in range(2):
            clients.enter_context(connected(server.url)).sendall(submission())
        wait_for_status(server, 503)
        assert ask(server, NOWHERE, OTHER_ADDRESS).startswith(b"HTTP/1.1 404 ")


def test_a_heartbeat_is_heard_while_people_have_all_requests(server: Server, app: FastAPI) -> None:
    """Without a valid token it is refused, for that reason."""
    heartbeat = request(
        "POST", "/api/v1/attempts/exp-k3v9q2mz-a1/heartbeat", "Authorization: Bearer x", "Content-Length: 2", body=b"{}"
    )
    with ExitStack() as clients, locked_database(app):
        for source in ("127.0.0.1", OTHER_ADDRESS):
            for _ in range(2):
                clients.enter_context(connected(server.url, source=source)).sendall(submission())
        wait_for_status(server, 503)
        with connected(server.url) as driver:
            driver.sendall(heartbeat)
            assert status_of(driver) == 403


def test_a_client_that_sends_slowly_keeps_nobody_out(server: Server) -> None:
    with ExitStack() as clients:
        for _ in range(8):  # twice as many as may be answered at once
            clients.enter_context(connected(server.url)).sendall(unfinished_submission())
        with httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S) as client:
            assert client.post("/api/v1/experiments", json={"name": "x"}).status_code == 201


@pytest.mark.parametrize("max_requests", [2 * (PEOPLE_WRITERS + 8)])
def test_nothing_is_begun_for_a_client_that_left(server: Server, app: FastAPI) -> None:
    """PEOPLE_WRITERS submissions wait for the database and 8 for their turn; then all of their clients leave."""
    context: AppContext = app.state.context
    with locked_database(app):
        with ExitStack() as clients:
            for _ in range(PEOPLE_WRITERS + 8):
                clients.enter_context(connected(server.url)).sendall(submission())
            wait_for_status(server, 503)
        wait_for_status(server, 404)
    with httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S) as client:
        assert client.post("/api/v1/experiments", json={"name": "last"}).status_code == 201
    with context.database.read() as session:
        stored = session.scalar(select(func.count()).select_from(Experiment).where(Experiment.name == "x"))
    assert stored is not None
    assert stored <= PEOPLE_WRITERS


@pytest.mark.parametrize("max_requests", [4 * PEOPLE_THREADS])
def test_people_who_wait_to_write_leave_threads_to_those_who_read(server: Server, app: FastAPI) -> None:
    """As many as have room wait for the database's write lock, however many more there are, and then all write."""
    pools: ThreadPools = app.state.thread_pools
    count = 2 * PEOPLE_THREADS - 4  # of one address, which has room for requests that read
    with ExitStack() as clients:
        waiting = [clients.enter_context(connected(server.url)) for _ in range(count)]
        with locked_database(app):
            for number, raw in enumerate(waiting):
                raw.sendall(submission(str(number)))
            deadline = time.monotonic() + PATIENCE_S
            while pools.writers.statistics().tasks_waiting < count - PEOPLE_WRITERS:
                assert time.monotonic() < deadline, "requests that write have no turn to wait for"
            assert pools.writers.statistics().borrowed_tokens == PEOPLE_WRITERS
            assert ask(server, READ).startswith(b"HTTP/1.1 200 ")
        assert [status_of(raw) for raw in waiting] == [201] * count


@pytest.mark.parametrize("max_requests", [4 * PEOPLE_THREADS])
def test_who_waits_for_the_nodes_keeps_nobody_from_writing(
    server: Server, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = 0

    async def never() -> None:
        nonlocal entered
        entered += 1
        await asyncio.Event().wait()

    monkeypatch.setattr(app.state.examinations, "nodes", never)
    with ExitStack() as clients:
        for _ in range(PEOPLE_WRITERS):
            raw = clients.enter_context(connected(server.url))
            raw.sendall(request("POST", "/api/v1/checkup/nodes", "Content-Length: 0"))
        deadline = time.monotonic() + PATIENCE_S
        while entered < PEOPLE_WRITERS:
            assert time.monotonic() < deadline, "the nodes are not asked"
            time.sleep(0.01)
        with httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S) as client:
            assert client.post("/api/v1/experiments", json={"name": "x"}).status_code == 201


def test_refusals_that_wait_to_be_recorded_leave_threads_to_those_who_read(server: Server, app: FastAPI) -> None:
    pools: ThreadPools = app.state.thread_pools
    too_large = request("POST", "/api/v1/experiments", "Content-Length: 99999999", "Connection: close")
    with ExitStack() as clients:
        waiting = [clients.enter_context(connected(server.url)) for _ in range(PEOPLE_THREADS)]
        with locked_database(app):
            for raw in waiting:
                raw.sendall(too_large)
            deadline = time.monotonic() + PATIENCE_S
            while pools.audit.statistics().tasks_waiting < PEOPLE_THREADS - AUDIT_THREADS:
                assert time.monotonic() < deadline, "they wait for no thread of the audit log"
            assert ask(server, READ).startswith(b"HTTP/1.1 200 ")
        assert [status_of(raw) for raw in waiting] == [413] * PEOPLE_THREADS


def test_a_body_that_arrives_in_many_pieces_is_one_for_the_application() -> None:
    """So its pieces neither take memory each, nor are they moved each time when one is taken."""
    pieces = [b"%d," % number for number in range(3_000)]
    sent = [{"type": "http.request", "body": piece, "more_body": piece is not pieces[-1]} for piece in pieces]
    incoming, received = iter(sent), list[Message]()

    async def receive() -> Message:
        return next(incoming, {"type": "http.disconnect"})

    async def application(_scope: Scope, receive: Receive, _send: Send) -> None:
        received.append(await receive())

    async def send(_message: Message) -> None:
        raise AssertionError("nothing is answered")

    scope = {"type": "http", "method": "GET", "path": "/api/v1/experiments", "client": ("127.0.0.1", 1)}
    asyncio.run(LoadLimitMiddleware(application, max_requests=4)(scope, receive, send))
    assert received == [{"type": "http.request", "body": b"".join(pieces), "more_body": False}]
