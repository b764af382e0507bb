"""Load limit: how many requests are worked on at once, and for whom. Pure ASGI.

People's requests and heartbeats are counted apart. A request of a person counts once its body has arrived, so that slow
clients keep nobody out, and it is abandoned when its client is gone. Those that may write take turns, so that they keep
nobody waiting who reads. It must not know the routes, except by their paths and methods.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search_spaces.protocol import API_PREFIX
from service.api import headers
from service.api.body_limit import HEARTBEATS
from service.api.error_handlers import problem_response
from service.api.methods import READING
from service.contract.errors import RungError, UnavailableError

#: Heartbeats at once: as many drivers as one machine holds. Those without a valid token cost a look into the database.
MAX_HEARTBEATS = 256
#: Share of people's requests that one address may have.
SHARE_OF_AN_ADDRESS = 0.5
RETRY_AFTER_S = 1
#: Answered whatever the load is, because supervisors of the service ask for them. The one waits for nothing, the other
#: is found once a second at most.
ALWAYS = frozenset({"/healthz", "/metrics"})
#: Waits for the cluster's nodes, for minutes, without a thread.
NODES = f"{API_PREFIX}/checkup/nodes"


class LoadLimitMiddleware:
    """Answers 503 to a request above `max_requests` of people, their half from one address, or MAX_HEARTBEATS."""

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        self._app = app
        self._max_requests = max_requests
        self._max_of_address = max(1, int(max_requests * SHARE_OF_AN_ADDRESS))
        self._of_address: Counter[str] = Counter()
        self._heartbeats = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            return await self._app(scope, receive, send)
        try:
            if scope["path"].startswith(HEARTBEATS):
                return await self._handle_heartbeat(scope, receive, send)
            body = await _read(receive)
            return None if body is None else await self._handle(scope, body, receive, send)
        except RungError as error:  # of the body, or of this module
            return await problem_response(error)(scope, receive, send)

    async def _handle_heartbeat(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._heartbeats >= MAX_HEARTBEATS:
            raise _busy(f"{MAX_HEARTBEATS} heartbeats are being answered")
        self._heartbeats += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._heartbeats -= 1

    async def _handle(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        address = scope["client"][0] if scope.get("client") else ""
        if self._of_address.total() >= self._max_requests:
            raise _busy(f"{self._max_requests} requests are being answered")
        if self._of_address[address] >= self._max_of_address:
            raise _busy(f"{self._max_of_address} requests of {address} are being answered")
        self._of_address[address] += 1
        try:
            await _until_client_is_gone(self._in_turn, scope, body, receive, send)
        finally:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]

    async def _in_turn(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in READING or scope["path"] == NODES:
            return await self._app(scope, receive, send)
        async with scope["app"].state.thread_pools.writers:
            return await self._app(scope, receive, send)


async def _read(receive: Receive) -> bytes | None:
    """A whole body, in whatever pieces it arrives; None if the client is gone before its end."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


async def _until_client_is_gone(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Run the application on a body that was read. What waits for a thread is abandoned when its client is gone; what a
    thread has begun, it completes."""
    gone, answered, replayed = asyncio.Event(), False, False

    async def replay() -> Message:
        nonlocal replayed
        if not replayed:
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send_watched(message: Message) -> None:
        nonlocal answered
        answered = message["type"] == "http.response.body" and not message.get("more_body", False)
        await send(message)

    with anyio.CancelScope() as running:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            if not answered:
                running.cancel()

        watching = asyncio.create_task(watch())
        try:
            await app(scope, replay, send_watched)
        finally:
            watching.cancel()


def _busy(why: str) -> UnavailableError:
    sent = {headers.RETRY_AFTER: str(RETRY_AFTER_S), "Connection": "close"}
    return UnavailableError(f"the service is busy: {why}; try again in a moment", headers=sent)
