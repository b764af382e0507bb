"""Servers that a firewall or a dead machine has cut off: nothing ever comes back from them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


class SilentServer:
    """Takes every connection and never answers."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._taken: list[socket.socket] = []
        self.port = int(listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def attempts(self) -> int:
        """How often somebody has connected so far."""
        while True:
            try:
                self._taken.append(self._listener.accept()[0])
            except BlockingIOError:
                return len(self._taken)

    def close(self) -> None:
        for connection in self._taken:
            connection.close()


@contextmanager
def silent_server() -> Iterator[SilentServer]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        listener.setblocking(False)
        server = SilentServer(listener)
        yield server
        server.attempts()
        server.close()


@contextmanager
def cut_off_address() -> Iterator[str]:
    """The URL of a server to which no connection is ever completed, nor refused: its queue is full."""
    with ExitStack() as connections, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            one = connections.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
