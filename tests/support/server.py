"""The real application on a free port of this machine."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from service.api.connections import server_config
from service.settings import Settings

START_S = 20
POLL_S = 0.002  # between two checks for requests that are not answered yet, when the server ends


class Server(uvicorn.Server):
    """Uvicorn's server, except that it ends as soon as it is asked to: Uvicorn's looks ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.servers[0].sockets[0].getsockname()[1]}"

    @property
    def open_connections(self) -> int:
        return len(self.server_state.connections)

    @property
    def is_idle(self) -> bool:
        """Whether every request was answered, or abandoned."""
        return not self.server_state.tasks

    def block(self, until: threading.Event) -> None:
        """Have the event loop stand still."""
        self._loop.call_soon_threadsafe(until.wait)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        await super().startup(sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        await self._stopping.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.tasks:
            await asyncio.sleep(POLL_S)
        await self.lifespan.shutdown()


@contextmanager
def running(app: FastAPI, settings: Settings | None = None, port: int = 0) -> Iterator[Server]:
    """The server of an application, for the length of the block. The limits of connections are those of `settings`."""
    server = Server(server_config(app, settings or Settings(), port=port, lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    if not server.ready.wait(START_S):
        raise TimeoutError("the application did not start")
    try:
        yield server
    finally:
        server.stop()
        thread.join(START_S)


@contextmanager
def serving(
    app: FastAPI, *on_response: Callable[[httpx.Response], None], settings: Settings | None = None, port: int = 0
) -> Iterator[httpx.Client]:
    """An HTTP client of the application, served for the length of the block. `on_response` sees each response."""
    hooks: dict[str, list[Any]] = {"response": list(on_response)}
    with (
        running(app, settings, port) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=START_S, event_hooks=hooks) as client,
    ):
        yield client
