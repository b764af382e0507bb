"""Heartbeats under pressure: nothing is read for a stranger, little is done for a bad body, and people cannot delay
them."""

from __future__ import annotations

import json
import socket
import threading

import httpx
import pytest
from fastapi import FastAPI

from search_spaces.protocol import MAX_UPDATES
from service.api.thread_pools import PEOPLE_THREADS
from service.app import create_app
from service.settings import Settings
from tests.support.memory_launcher import MemoryLauncher
from tests.support.world import World

HEARTBEAT = {"phase": "searching"}


def announce_body(client: httpx.Client, experiment_id: str, token: str) -> socket.socket:
    """A connection on which a heartbeat was announced, with `Expect`, and nothing of its body was sent."""
    raw = socket.create_connection((client.base_url.host, client.base_url.port), timeout=10)
    lines = (
        f"POST /api/v1/attempts/exp-{experiment_id}-a1/heartbeat HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {token}",
        "Content-Length: 20",
        "Expect: 100-continue",
    )
    raw.sendall("\r\n".join((*lines, "", "")).encode())
    return raw


@pytest.mark.parametrize(("token", "status"), [("wrong", b"403"), (" ", b"401")])
def test_a_wrong_token_is_refused_before_the_body_is_read(world: World, token: str, status: bytes) -> None:
    one = world.started()
    with announce_body(world.client, one, token) as raw:
        assert raw.recv(4096).startswith(b"HTTP/1.1 " + status)


def test_an_unknown_attempt_is_refused_before_the_body_is_read(world: World) -> None:
    with announce_body(world.client, "k3v9q2mz", "any") as raw:
        assert raw.recv(4096).startswith(b"HTTP/1.1 403")


def test_the_body_is_asked_for_once_the_token_is_known(world: World) -> None:
    one = world.started()
    with announce_body(world.client, one, world.launcher.launches[f"exp-{one}-a1"].token) as raw:
        assert raw.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(b'{"phase":"starting"}')
        assert raw.recv(4096).startswith(b"HTTP/1.1 200")


BAD = [
    b'{"phase": "searching", "trials": [' + b"1," * 10**6 + b"1]}",
    b'{"phase": "searching", "trials": [' + b"{}," * MAX_UPDATES + b"{}]}",
    b'{"phase": "searching", "trials": [{"trial": 0, "state": "RUNNING", "metrics": {'
    + b",".join(b'"%d": "x"' % number for number in range(10**5))
    + b"}}]}",
]


@pytest.mark.parametrize("body", BAD, ids=["wrong trials", "too many trials", "wrong metrics"])
def test_the_answer_to_a_bad_heartbeat_is_small(world: World, body: bytes) -> None:
    one = world.started()
    answer = world.beat(one, body.decode())
    assert answer.status_code == 422, answer.text
    assert len(answer.json()["errors"]) <= 3
    assert len(answer.content) < 2000


def test_a_heartbeat_above_the_limit_is_refused(world: World) -> None:
    one = world.started()
    answer = world.beat(one, json.dumps({**HEARTBEAT, "reason": "x" * 2**22}))
    assert (answer.status_code, answer.json()["errors"][0]["rule"]) == (413, "must be at most 4194304 bytes")


def test_a_heartbeat_may_report_as_many_trials_as_a_driver_sends_at_once(world: World) -> None:
    one = world.started(searcher={"kind": "random", "num_samples": 3000})
    parameters = {f"a.parameter.of.the.search.space.{number}": "x" * 40 for number in range(60)}
    lines = [world.line(number, parameters=parameters, stop_reason="y" * 500) for number in range(MAX_UPDATES)]
    assert world.beat(one, {**HEARTBEAT, "trials": lines}).status_code == 200
    assert world.show(one)["trials"] == {"RUNNING": MAX_UPDATES}


class Gate:
    """A route of people's kind, all of whose requests wait until the gate is opened."""

    def __init__(self) -> None:
        self._inside = 0
        self._change = threading.Condition()
        self._opened = threading.Event()

    def pass_through(self) -> None:
        with self._change:
            self._inside += 1
            self._change.notify_all()
        self._opened.wait(60)

    def wait_for(self, requests: int) -> None:
        with self._change:
            assert self._change.wait_for(lambda: self._inside >= requests, timeout=30)

    def open(self) -> None:
        self._opened.set()


class TestThreadPools:
    @pytest.fixture
    def app(self, settings: Settings, launcher: MemoryLauncher) -> FastAPI:
        """One of its own, to which the test adds a route."""
        return create_app(settings, launcher)

    def test_people_who_wait_do_not_delay_heartbeats(self, app: FastAPI, world: World) -> None:
        one, gate = world.started(), Gate()
        app.get("/gate")(gate.pass_through)
        waiting = [threading.Thread(target=world.client.get, args=("/gate",)) for _ in range(2 * PEOPLE_THREADS)]
        for thread in waiting:
            thread.start()
        try:
            gate.wait_for(PEOPLE_THREADS)
            assert world.beat(one, HEARTBEAT).status_code == 200
            assert world.beat(one, "nonsense").status_code == 400
            assert world.client.get("/healthz").status_code == 200
        finally:
            gate.open()
            for thread in waiting:
                thread.join()
