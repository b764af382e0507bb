"""Body limit: no route gets more of a request's body than is allowed, nor waits for it longer. Pure ASGI.

Nothing is read that nobody asks for, except to throw it away. It must not know what a body holds.
"""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search_spaces.problems import Problem
from search_spaces.protocol import API_PREFIX
from service.api.error_handlers import problem_response
from service.contract.errors import ContentTooLargeError, RequestTimeoutError

HEARTBEATS = f"{API_PREFIX}/attempts/"
_CLOSE = {"Connection": "close"}  # the rest of the body means nothing
#: For so long, what a client still sends of a body that was refused is thrown away: the end of a connection on which
#: something arrives is a reset, with which a client may lose the response.
LINGER_S = 5.0


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
        size, deadline, complete, too_large = 0, 0.0, False, False

        async def receive_limited() -> Message:
            nonlocal size, deadline, complete, too_large
            if complete:  # only the end of the connection follows, whenever that is
                return await receive()
            deadline = deadline or anyio.current_time() + self._timeout_s
            with anyio.CancelScope(deadline=deadline):
                message = await receive()
                size += len(message.get("body", b""))
                complete = not message.get("more_body", False)
                if size > limit:
                    too_large = True
                    raise _too_large(limit)
                return message
            raise _too_late(self._timeout_s)

        async def send_before_the_rest(message: Message) -> None:
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if too_large and not complete and is_last:
                await send({**message, "more_body": True})
                await _discard(receive)
                message = {"type": "http.response.body"}
            await send(message)

        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > limit:
            too_large = True
            refusal = problem_response(_too_large(limit, int(declared[:20])))
            return await refusal(scope, receive, send_before_the_rest)
        return await self._app(scope, receive_limited, send_before_the_rest)


async def _discard(receive: Receive) -> None:
    """Read what is left of a body, until its end, the client's or that of LINGER_S."""
    with anyio.move_on_after(LINGER_S):
        while (await receive()).get("more_body", False):
            pass


def _too_large(limit: int, declared: int | None = None) -> ContentTooLargeError:
    """`declared`: the size that the request's headers say, if they do."""
    rule = f"must be at most {limit} bytes"
    given = "" if declared is None else f" (got {declared})"
    return ContentTooLargeError(f"the request body {rule}{given}", [Problem("", rule, declared)], _CLOSE)


def _too_late(timeout_s: float) -> RequestTimeoutError:
    rule = f"must arrive within {timeout_s:g} s"
    return RequestTimeoutError(f"the request body {rule}", [Problem("", rule)], _CLOSE)
