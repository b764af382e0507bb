"""Hostile clients: `python -m tests.load.hostile URL KIND COUNT SECONDS` prints what they were answered, as JSON.

Each client has a loopback address of its own, so that no limit of an address restrains them together.
"""

from __future__ import annotations

import itertools
import json
import select
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

from tests.support.raw_http import connected, request, submission, unfinished_submission

#: Connections of one client that only opens them.
IDLE_CONNECTIONS = 20
#: Connections of one client that opens and closes them.
BURST = 100
PATIENCE_S = 60.0
AFTER_ERROR_S = 0.1  # a client that only fails must not keep the cores busy
RESET_AT_CLOSE = struct.pack(
    "ii", 1, 0
)  # SO_LINGER: a port that waits for a minute after its end could not be used again


class Clients:
    """Clients of one kind, each in a thread. `answers` counts statuses, and connections that ended without one."""

    def __init__(self, url: str, kind: str, seconds: float) -> None:
        self._url = url
        self._work = KINDS[kind]
        self._network = list(KINDS).index(kind)
        self._end = time.monotonic() + seconds
        self.answers: Counter[str] = Counter()

    def run(self, count: int) -> None:
        threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run(self, number: int) -> None:
        address = f"127.0.{10 + self._network}.{1 + number}"
        while time.monotonic() < self._end:
            try:
                for answer in self._work(self._url, address, self._end):
                    self.answers[answer] += 1
            except OSError as error:
                self.answers[type(error).__name__] += 1
                time.sleep(AFTER_ERROR_S)


def bad_heartbeats(url: str, address: str, _end: float) -> Iterator[str]:
    """A large body with a token that is not the attempt's, and without any."""
    body = json.dumps({"phase": "searching", "trials": [{}] * 500_000}).encode()
    for token in ("Authorization: Bearer x", "X-Nothing: x"):
        yield _ask(url, address, request("POST", HEARTBEAT, token, f"Content-Length: {len(body)}", body=body))


def unfinished_bodies(url: str, address: str, end: float) -> Iterator[str]:
    """The rest of each body never comes."""
    yield from _hold(url, address, unfinished_submission(), end)


def expensive_specs(url: str, address: str, _end: float) -> Iterator[str]:
    """As large as a spec may be, with as many candidates as its notation has words for."""
    stepped = {"quniform": [0, 9999, 0.1]}
    alternatives = [{"kind": "cosine", "warmup_epochs": stepped}] * 900
    spec = json.dumps({"name": "x", "search_space": {"scheduler": {"choice": alternatives}}}).encode()
    path = "/api/v1/experiments?validate_only=true"
    head = ("Content-Type: application/json", f"Content-Length: {len(spec)}")
    yield _ask(url, address, request("POST", path, *head, body=spec))


def idle_connections(url: str, address: str, end: float) -> Iterator[str]:
    """Nothing is ever sent."""
    yield from _hold(url, address, b"", end)


def bursts(url: str, address: str, _end: float) -> Iterator[str]:
    """BURST connections at once, which are closed before anything is sent."""
    at = urlsplit(url)
    with ExitStack() as stack:
        for _ in range(BURST):
            raw = stack.enter_context(socket.socket())
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            raw.bind((address, 0))
            raw.setblocking(False)
            with suppress(BlockingIOError):
                raw.connect((at.hostname, at.port))
        yield "burst"
        time.sleep(0.1)


def submissions(url: str, address: str, _end: float) -> Iterator[str]:
    """One valid spec after the other, over one connection."""
    with connected(url, source=address) as raw:
        raw.settimeout(PATIENCE_S)
        for _ in range(100):
            raw.sendall(submission())
            answer = raw.recv(2**16)
            if not answer.startswith(b"HTTP/1.1 "):
                break
            yield answer[9:12].decode()
            with suppress(BlockingIOError):  # the rest of the response
                while select.select([raw], [], [], 0.01)[0] and raw.recv(2**16):
                    pass


KINDS: dict[str, Callable[[str, str, float], Iterator[str]]] = {
    work.__name__: work
    for work in (bad_heartbeats, unfinished_bodies, expensive_specs, idle_connections, submissions, bursts)
}
HEARTBEAT = "/api/v1/attempts/exp-k3v9q2mz-a1/heartbeat"


def _ask(url: str, address: str, sent: bytes) -> str:
    """The status of the answer."""
    with connected(url, source=address) as raw:
        raw.settimeout(PATIENCE_S)
        with suppress(ConnectionError):  # it may answer before it has read everything
            raw.sendall(sent)
        return raw.recv(64)[9:12].decode() or "closed"


def _hold(url: str, address: str, sent: bytes, end: float) -> Iterator[str]:
    """Keep IDLE_CONNECTIONS open, and replace each one that the service ends."""
    with ExitStack() as stack:
        held: list[socket.socket] = []
        for _ in itertools.repeat(None):
            while len(held) < IDLE_CONNECTIONS:
                raw = stack.enter_context(connected(url, source=address))
                raw.sendall(sent)
                held.append(raw)
            if time.monotonic() >= end:
                return
            for raw in select.select(held, [], [], 0.2)[0]:
                try:
                    yield raw.recv(2**16)[9:12].decode() or "closed"
                except ConnectionError:
                    yield "closed"
                held.remove(raw)
                raw.close()


if __name__ == "__main__":
    clients = Clients(sys.argv[1], sys.argv[2], float(sys.argv[4]))
    clients.run(int(sys.argv[3]))
    print(json.dumps(clients.answers))
