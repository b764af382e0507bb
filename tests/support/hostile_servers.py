"""Servers whose answers never end: one byte after another, or as fast as they are read."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.handlers import QuietHandler, handling


class Slow:
    """A server that sends one byte after another, until `ended`, in its headers or in its body."""

    def __init__(self, in_headers: bool) -> None:
        self.url, self.attempts, self.ended = "", 0, threading.Event()
        self.start = b"HTTP/1.1 200 OK\r\nX: " if in_headers else b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"


@contextmanager
def slow_server(in_headers: bool) -> Iterator[Slow]:
    found = Slow(in_headers)

    class Handler(QuietHandler):
        def respond(self) -> None:
            found.attempts += 1
            with contextlib.suppress(OSError):
                self.wfile.write(found.start)
                while not found.ended.wait(0.02):
                    self.wfile.write(b" ")
            self.close_connection = True

    with handling(Handler) as found.url:
        try:
            yield found
        finally:
            found.ended.set()


class Endless:
    """A server whose body does not end. `sent` are the bytes that each of its answers has sent so far."""

    def __init__(self) -> None:
        self.url = ""
        self.sent: list[int] = []


@contextmanager
def endless_server(chunked: bool) -> Iterator[Endless]:
    found, block = Endless(), b" " * 100_000

    class Handler(QuietHandler):
        def respond(self) -> None:
            kind = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 3000000000"
            found.sent.append(0)
            with contextlib.suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\n" + kind + b"\r\n\r\n")
                while found.sent[-1] < 100_000_000:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)
                    found.sent[-1] += len(block)
            self.close_connection = True

    with handling(Handler) as found.url:
        yield found
