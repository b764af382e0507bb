"""Proxy: a TCP proxy between drivers or clients and the service. Tests can cut its connections.

Owns connections and bytes; it must not know HTTP.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class Proxy:
    """Forwards each connection to the first target that accepts it.

    `before_request` runs an action once, before the next request that contains `mark` is forwarded.
    `instead_of_response` runs it when the response to that request arrives; the response is then lost.
    """

    def __init__(self, port: int, targets: tuple[int, ...]) -> None:
        self._port, self._targets = port, targets
        self.url = f"http://127.0.0.1:{port}"
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._waiting: tuple[bytes, Callable[[], None], bool] | None = None
        self._losing: dict[socket.socket, Callable[[], None]] = {}
        self.mend()

    def mend(self) -> None:
        """Accept connections. Does nothing if the proxy accepts them already."""
        with self._lock:
            if self._listener is not None:
                return
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(("127.0.0.1", self._port))
            self._listener.listen(64)
            threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Refuse new connections, and close those that are open."""
        with self._lock:
            listener, self._listener = self._listener, None
            broken, self._open = self._open, set()
        for one in (listener, *broken):
            if one is not None:
                _close(one)

    close = cut

    def before_request(self, mark: bytes, action: Callable[[], None]) -> None:
        self._waiting = mark, action, False

    def instead_of_response(self, mark: bytes, action: Callable[[], None]) -> None:
        self._waiting = mark, action, True

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                near, _ = listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        for port in self._targets:
            with contextlib.suppress(OSError):
                far = socket.create_connection(("127.0.0.1", port), timeout=5)
                far.settimeout(None)
                break
        else:
            return _close(near)
        with self._lock:
            self._open |= {near, far}
        threading.Thread(target=self._pass, args=(far, near), daemon=True).start()
        self._pass(near, far)
        return None

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(1 << 16):
                if source in self._losing:
                    self._losing.pop(source)()
                    break
                self._interfere(block, sink)
                sink.sendall(block)
        with self._lock:
            self._open -= {source, sink}
        _close(source)
        _close(sink)

    def _interfere(self, block: bytes, sink: socket.socket) -> None:
        """Run the waiting action if this block contains its mark. Only requests contain a mark, never responses."""
        if self._waiting is None or self._waiting[0] not in block:
            return
        (_, action, at_response), self._waiting = self._waiting, None
        if at_response:
            self._losing[sink] = action
        else:
            action()


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
