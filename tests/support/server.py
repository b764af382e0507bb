"""The real application on a free port of this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

START_S = 20


@contextmanager
def serving(app: FastAPI, *on_response: Callable[[httpx.Response], None]) -> Iterator[httpx.Client]:
    """An HTTP client of the application, served for the length of the block. `on_response` sees each response."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    up = threading.Event()
    startup = server.startup

    async def announce(**options: Any) -> None:
        await startup(**options)
        up.set()

    server.startup = announce  # type: ignore[method-assign, assignment]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        if not up.wait(START_S):
            raise TimeoutError("the application did not start")
        port = server.servers[0].sockets[0].getsockname()[1]
        hooks = {"response": list(on_response)}
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=START_S, event_hooks=hooks
        ) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(START_S)
