"""Body limit: no route gets more of a request's body than is allowed, nor waits for it longer. Pure ASGI.

Nothing is read that nobody asks for. It must not know what a body holds.
"""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search_spaces.problems import Problem
from search_spaces.protocol import API_PREFIX
from service.api.error_handlers import problem_response
from service.contract.errors import ContentTooLargeError, RequestTimeoutError

HEARTBEATS = f"{API_PREFIX}/attempts/"
_CLOSE = {"Connection": "close"}  # the rest of the body is never read


class MaxBodySizeMiddleware:
    """Refuses a body that is larger than its limit (413), or has not arrived `timeout_s` after its first part was
    asked for (408)."""

    def __init__(self, app: ASGIApp, max_bytes: int, max_heartbeat_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_heartbeat_bytes = max_heartbeat_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        limit = self._max_heartbeat_bytes if scope["path"].startswith(HEARTBEATS) else self._max_bytes
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > limit:
            return await problem_response(_too_large(limit, int(declared[:20])))(scope, receive, send)
        size, deadline, complete = 0, 0.0, False

        async def receive_limited() -> Message:
            nonlocal size, deadline, complete
            if complete:  # only the end of the connection follows, whenever that is
                return await receive()
            deadline = deadline or anyio.current_time() + self._timeout_s
            with anyio.CancelScope(deadline=deadline):
                message = await receive()
                size += len(message.get("body", b""))
                if size > limit:
                    raise _too_large(limit)
                complete = not message.get("more_body", False)
                return message
            raise _too_late(self._timeout_s)

        return await self._app(scope, receive_limited, send)


def _too_large(limit: int, declared: int | None = None) -> ContentTooLargeError:
    """`declared`: the size that the request's headers say, if they do."""
    rule = f"must be at most {limit} bytes"
    given = "" if declared is None else f" (got {declared})"
    return ContentTooLargeError(f"the request body {rule}{given}", [Problem("", rule, declared)], _CLOSE)


def _too_late(timeout_s: float) -> RequestTimeoutError:
    rule = f"must arrive within {timeout_s:g} s"
    return RequestTimeoutError(f"the request body {rule}", [Problem("", rule)], _CLOSE)
