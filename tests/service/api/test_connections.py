"""Connections: each one ends if its client keeps the service waiting, and no address holds them all."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from service.api.connections import MAX_HEADER_BYTES
from service.context import AppContext
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from tests.support.driver import Driver
from tests.support.memory_launcher import MemoryLauncher
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
from tests.support.world import World

LIMITS = {"request_timeout_s": 0.3, "max_connections": 6, "max_connections_per_address": 4}
#: Long enough that no deadline ends while a test runs.
PATIENT = LIMITS | {"request_timeout_s": 600}
OTHER_ADDRESS = "127.0.0.2"


@pytest.fixture
def limits() -> dict[str, float]:
    return LIMITS


@pytest.fixture
def settings(settings: Settings, limits: dict[str, float]) -> Settings:
    return Settings(**{**settings.model_dump(), **limits})


@pytest.fixture
def server(app: FastAPI, settings: Settings) -> Iterator[Server]:
    with running(app, settings) as server:
        yield server


def is_closed(raw: socket.socket) -> bool:
    """Whether the service has closed the connection, as far as is known now."""
    readable, _, _ = select.select([raw], [], [], 0)
    return bool(readable) and not raw.recv(2**16)


def wait_for_connections(server: Server, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while server.open_connections != count:
        assert time.monotonic() < deadline, f"{server.open_connections} connections are open, not {count}"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: localh"], ids=["nothing", "half of the headers"]
)
def test_headers_have_a_deadline(server: Server, sent: bytes) -> None:
    with ExitStack() as clients:
        silent = [clients.enter_context(connected(server.url)) for _ in range(4)]
        for raw in silent:
            raw.sendall(sent)
        for raw in silent:
            assert rest(raw) == b""
    wait_for_connections(server, 0)


def test_a_byte_now_and_then_does_not_move_the_deadlines(server: Server) -> None:
    """Neither that of the headers nor that of the body."""
    head = request("POST", "/api/v1/experiments", "Content-Type: application/json", "Content-Length: 100000")
    for start, answer in ((b"GET /healthz HTTP/1.1\r\nHost: ", b""), (head, b"HTTP/1.1 408 ")):
        with connected(server.url) as raw:
            raw.sendall(start)
            received = b""
            try:
                while True:
                    raw.sendall(b"x")
                    readable, _, _ = select.select([raw], [], [], 0.02)
                    if readable:
                        part = raw.recv(2**16)
                        received += part
                        if not part:
                            break
            except ConnectionError:  # the service has closed it while a byte was on its way
                pass
            assert received.startswith(answer)
    wait_for_connections(server, 0)


def test_an_unfinished_body_is_answered_and_its_connection_closed(server: Server) -> None:
    with connected(server.url) as raw:
        raw.sendall(unfinished_submission())
        status, headers, problem = parse(rest(raw))
    assert (status, headers["connection"]) == (408, "close")
    assert problem["detail"] == "the request body must arrive within 0.3 s"
    wait_for_connections(server, 0)


def test_a_driver_that_leaves_before_the_end_of_its_body_is_no_error(
    server: Server, app: FastAPI, launcher: MemoryLauncher, caplog: pytest.LogCaptureFixture
) -> None:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S) as http:
        attempt = f"exp-{World(http, launcher, Reconciler(app.state.context)).started()}-a1"
    token = f"Authorization: Bearer {launcher.launches[attempt].token}"
    path = f"/api/v1/attempts/{attempt}/heartbeat"
    caplog.clear()
    with connected(server.url) as raw:
        raw.sendall(request("POST", path, token, "Content-Length: 100", "Expect: 100-continue"))
        assert raw.recv(2**16).startswith(b"HTTP/1.1 100 "), "the body is waited for"
        raw.sendall(b"{")
    wait_for_connections(server, 0)
    deadline = time.monotonic() + PATIENCE_S
    while not server.is_idle:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not caplog.records


def test_headers_without_end_are_refused_once_they_are_too_large(server: Server) -> None:
    with connected(server.url) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000)
        status, headers, problem = parse(rest(raw))
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert headers["x-content-type-options"] == "nosniff"
    assert problem["detail"] == "the request is not valid HTTP/1.1, or its headers are too large"


def padded(path: str, size: int) -> bytes:
    """A request whose headers have this many bytes."""
    missing = size - len(request("GET", path, "X: "))
    return request("GET", path, "X: " + "x" * missing)


@pytest.mark.parametrize("limits", [PATIENT])
@pytest.mark.parametrize("size", [MAX_HEADER_BYTES + 1, 20_000, 40_000, 60_000])
@pytest.mark.parametrize("first", [b"", request("GET", "/readyz")], ids=["first", "behind another"])
def test_headers_are_limited_also_if_they_arrive_at_once(server: Server, size: int, first: bytes) -> None:
    with connected(server.url) as raw:
        raw.sendall(first + padded("/healthz", size))
        if first:
            assert status_of(raw) in {200, 503}
        assert status_of(raw) == 400


@pytest.mark.parametrize("limits", [PATIENT])
def test_trailers_are_limited_as_headers_are(server: Server) -> None:
    head = request("POST", "/api/v1/experiments/nobody/pause", "Transfer-Encoding: chunked")
    with connected(server.url) as raw:
        raw.sendall(head + b"0\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")
        assert status_of(raw) == 400


@pytest.mark.parametrize("limits", [PATIENT])
def test_a_request_with_two_lengths_is_refused_and_ends_its_connection(server: Server) -> None:
    lengths = ("Content-Length: 5", "Transfer-Encoding: chunked")
    with connected(server.url) as raw:
        raw.sendall(request("POST", "/api/v1/experiments", *lengths, body=b"0\r\n\r\n") + request("GET", "/healthz"))
        status, headers, _ = parse(rest(raw))
    assert (status, headers["connection"]) == (400, "close")


MEGABYTE = b"x" * 2**20
SENT_AT_ONCE = (f"Content-Length: {len(MEGABYTE)}", MEGABYTE)
IN_CHUNKS = ("Transfer-Encoding: chunked", f"{len(MEGABYTE):x}\r\n".encode() + MEGABYTE + b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("limits", [PATIENT])
@pytest.mark.parametrize("first", [b"", request("GET", "/healthz")], ids=["first", "behind another"])
@pytest.mark.parametrize(("length", "body"), [SENT_AT_ONCE, IN_CHUNKS], ids=["length", "chunks"])
def test_a_body_that_is_too_large_is_answered_before_the_connection_ends(
    server: Server, first: bytes, length: str, body: bytes
) -> None:
    """With the end of the stream, not with a reset."""
    with connected(server.url) as raw:
        raw.sendall(first + request("POST", "/api/v1/experiments", "Content-Type: application/json", length, body=body))
        if first:
            assert status_of(raw) == 200
        status, headers, _ = parse(rest(raw))
    assert (status, headers["connection"]) == (413, "close")


@pytest.mark.parametrize("limits", [PATIENT])
def test_headers_up_to_the_limit_pass_however_they_arrive(server: Server) -> None:
    """Also several requests at once, whose headers are larger than the limit together."""
    one = padded("/healthz", MAX_HEADER_BYTES)
    with connected(server.url) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(one), 100):
            raw.sendall(one[start : start + 100])
        assert status_of(raw) == 200
        raw.sendall(one * 4 + padded("/healthz", 1_000) * 40)
        assert [status_of(raw) for _ in range(44)] == [200] * 44


@pytest.mark.parametrize("limits", [PATIENT])
def test_a_request_to_upgrade_is_answered_as_http(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    asked = ("Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13")
    with connected(server.url) as raw:
        for protocol in ("websocket", "h2c"):
            raw.sendall(request("GET", "/healthz", f"Upgrade: {protocol}", *asked))
            assert status_of(raw) == 200
    assert not caplog.records


def test_a_client_that_does_not_read_is_dropped(server: Server) -> None:
    """The responses to all its requests have a hundred megabytes: only what is on its way is kept for it."""
    with connected(server.url, receive_buffer=4096) as raw:
        wait_for_connections(server, 1)
        raw.sendall(request("GET", "/api/v1/schema") * 2_000)
        wait_for_connections(server, 0)
        received = 0
        with suppress(ConnectionResetError):
            while part := raw.recv(2**20):
                received += len(part)
        assert 0 < received < 10_000_000


def test_a_request_that_takes_longer_than_the_deadline_is_answered(server: Server, app: FastAPI) -> None:
    """Also a request that was sent together with the one before it."""
    context: AppContext = app.state.context
    with connected(server.url) as working:
        with context.database.write() as session:
            session.execute(text("SELECT 1"))  # from now on, nobody else can write
            working.sendall(request("GET", "/healthz") + submission())
            assert status_of(working) == 200
            with connected(server.url) as idle:  # it ends after the deadline of the other, if that had one
                assert rest(idle) == b""
        assert status_of(working) == 201


@pytest.mark.parametrize("limits", [PATIENT])
def test_a_new_connection_replaces_the_one_of_its_address_that_waits_longest(server: Server) -> None:
    with ExitStack() as clients:
        first, second, *others = [clients.enter_context(connected(server.url)) for _ in range(4)]
        wait_for_connections(server, 4)  # the service may accept the others after it has answered the first
        first.sendall(request("GET", "/healthz"))
        assert status_of(first) == 200  # it waits for less long than the second now
        last = clients.enter_context(connected(server.url))
        last.sendall(request("GET", "/healthz"))
        assert status_of(last) == 200
        assert rest(second) == b""
        assert not any(map(is_closed, [first, *others, last]))
        assert server.open_connections == 4


@pytest.mark.parametrize("limits", [PATIENT])
def test_an_address_that_holds_most_connections_makes_room_for_others(server: Server) -> None:
    with ExitStack() as clients:
        many = [clients.enter_context(connected(server.url, source=OTHER_ADDRESS)) for _ in range(4)]
        few = [clients.enter_context(connected(server.url)) for _ in range(3)]
        few[-1].sendall(request("GET", "/healthz"))
        assert status_of(few[-1]) == 200
        assert [is_closed(raw) for raw in many] == [True, False, False, False]
        assert not any(map(is_closed, few))
        assert server.open_connections == 6


@pytest.mark.parametrize("limits", [PATIENT | {"max_connections_per_address": 6}])
def test_behind_a_proxy_one_address_may_have_all_connections(server: Server) -> None:
    with ExitStack() as clients:
        open_ones = [clients.enter_context(connected(server.url)) for _ in range(6)]
        for raw in open_ones:
            raw.sendall(request("GET", "/healthz"))
        assert [status_of(raw) for raw in open_ones] == [200] * 6


@pytest.mark.parametrize("limits", [PATIENT])
def test_the_connection_of_a_driver_makes_room_for_nobody(
    server: Server, app: FastAPI, launcher: MemoryLauncher
) -> None:
    context: AppContext = app.state.context
    with httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S) as http:
        world = World(http, launcher, Reconciler(context))
        attempt = f"exp-{world.started()}-a1"
    with ExitStack() as clients:
        transport = clients.enter_context(httpx.Client(base_url=server.url, trust_env=False, timeout=PATIENCE_S))
        driver = Driver(transport, launcher.launches[attempt])
        answers = [driver.send('{"phase": "searching"}')]
        for _ in range(8):  # twice as many as the address may have
            raw = clients.enter_context(connected(server.url))
            raw.sendall(request("GET", "/healthz"))
            assert status_of(raw) == 200
        answers.append(driver.send('{"phase": "searching"}'))
        assert [answer.status_code for answer in answers] == [200, 200]
        streams = {id(answer.extensions["network_stream"]) for answer in answers}
        assert len(streams) == 1, "over the same connection"
