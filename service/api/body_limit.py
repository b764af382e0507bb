"""Body limit: no request body larger than allowed is ever held in memory. Pure ASGI."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search_spaces.problems import Problem
from search_spaces.protocol import API_PREFIX
from service.api.error_handlers import problem_response
from service.contract.errors import ContentTooLargeError

HEARTBEATS = f"{API_PREFIX}/attempts/"


class MaxBodySizeMiddleware:
    """Reads each body up to its limit before the application sees it; answers 413 to a larger one."""

    def __init__(self, app: ASGIApp, max_bytes: int, max_heartbeat_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_heartbeat_bytes = max_heartbeat_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            return await self._app(scope, receive, send)
        limit = self._max_heartbeat_bytes if scope["path"].startswith(HEARTBEATS) else self._max_bytes
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > limit:
            return await self._refuse(scope, receive, send, limit)
        messages: list[Message] = []
        size = 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > limit:
                return await self._refuse(scope, receive, send, limit)
            if message["type"] != "http.request" or not message.get("more_body", False):
                break

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        return await self._app(scope, replay, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        rule = f"must be at most {limit} bytes"
        close = {"Connection": "close"}  # the rest of the body is never read
        error = ContentTooLargeError(f"the request body {rule}", [Problem("", rule)], close)
        await problem_response(error)(scope, receive, send)
