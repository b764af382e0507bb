"""Body limit: no route gets more of a request's body than is allowed, and nothing is read that no route asks for. Pure
ASGI."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search_spaces.problems import Problem
from search_spaces.protocol import API_PREFIX
from service.api.error_handlers import problem_response
from service.contract.errors import ContentTooLargeError

HEARTBEATS = f"{API_PREFIX}/attempts/"


class MaxBodySizeMiddleware:
    """Answers 413 to a body that is larger than its limit, as soon as that is known."""

    def __init__(self, app: ASGIApp, max_bytes: int, max_heartbeat_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_heartbeat_bytes = max_heartbeat_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        limit = self._max_heartbeat_bytes if scope["path"].startswith(HEARTBEATS) else self._max_bytes
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > limit:
            return await problem_response(_too_large(limit, int(declared[:20])))(scope, receive, send)
        size = 0

        async def receive_limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise _too_large(limit)
            return message

        return await self._app(scope, receive_limited, send)


def _too_large(limit: int, declared: int | None = None) -> ContentTooLargeError:
    """`declared`: the size that the request's headers say, if they do."""
    rule = f"must be at most {limit} bytes"
    given = "" if declared is None else f" (got {declared})"
    close = {"Connection": "close"}  # the rest of the body is never read
    return ContentTooLargeError(f"the request body {rule}{given}", [Problem("", rule, declared)], close)
