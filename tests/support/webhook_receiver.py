"""A receiver of webhooks as a process of its own, which tests have fail, hang, redirect, or answer slowly.

`python -m tests.support.webhook_receiver` serves on a free port and prints it. It keeps every request that arrived
completely. `/control` says what it does from now on, and answers what has arrived.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.handlers import PromptServer, QuietHandler

WAIT_S = 30.0
POLL_S = 0.02


@dataclass(frozen=True)
class Received:
    """A request."""

    path: str
    headers: dict[str, str]
    body: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


#: Number of interim answers before the final one.
HINTS = {"hint": 2, "hints": 100}


class WebhookReceiver:
    """The process, seen from a test."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def behave(self, how: str = "accept", status: int = 200) -> None:
        """`accept`, `hint` (two interim answers first), `hints` (more than a sender reads), `hang` (no answer), `drip`
        (a byte of a header at a time, for ever), `redirect`, `drop`."""
        self._control({"how": how, "status": status})

    def received(self) -> list[Received]:
        return [Received(**one) for one in self._control({})["received"]]

    def await_received(self, count: int) -> list[Received]:
        """What has arrived once there are so many."""
        await_true(lambda: len(self.received()) >= count)
        return self.received()

    def _control(self, order: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self.url}/control", json=order, trust_env=False, timeout=WAIT_S)
        document: dict[str, Any] = answer.json()
        return document


def await_true(check: Callable[[], bool]) -> None:
    """Return once the check is true. Raises TimeoutError."""
    deadline = time.monotonic() + WAIT_S
    while not check():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not happen in time")
        time.sleep(POLL_S)


@contextlib.contextmanager
def webhook_receiver() -> Iterator[WebhookReceiver]:
    """The process, for the length of the block."""
    command = [sys.executable, "-m", "tests.support.webhook_receiver"]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        try:
            yield WebhookReceiver(int(process.stdout.readline()))
        finally:
            process.kill()


def main() -> None:
    state: dict[str, Any] = {"how": "accept", "status": 200}
    received: list[dict[str, Any]] = []
    lock = threading.Lock()

    class Handler(QuietHandler):
        def respond(self) -> None:
            text = self.body().decode()
            if self.path == "/control":
                with lock:
                    state.update(json.loads(text))
                    content = json.dumps({"received": received}).encode()
                self.answer(200, content)
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            with lock:
                received.append({"path": self.path, "headers": headers, "body": text})
                how, status = state["how"], state["status"]
            with contextlib.suppress(OSError):  # the sender did not wait
                self.do(how, status)

        def do(self, how: str, status: int) -> None:
            if how == "hang":
                self.connection.recv(1)  # until the sender ends the connection
            elif how == "drip":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                while True:
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            elif how == "redirect":
                self.send_response(302)
                self.send_header("Location", f"http://{self.headers['Host']}/elsewhere")
                self.end_headers()
            elif how in {"accept", *HINTS}:
                hints = HINTS.get(how, 0)
                self.wfile.write(hints * b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
                self.answer(status, b"ok")

    with PromptServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
