"""Request log: one line for each request, with an id that the response has too. Pure ASGI.

Owns the ids. Neither queries nor bodies nor tokens are logged. It must not know what a request does.
"""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search_spaces.protocol import API_PREFIX
from service.api.headers import REQUEST_ID, REQUEST_STATE

#: What a client may choose as an id: it is logged, and stored in the audit log.
ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
HEADER = REQUEST_ID.lower().encode()
#: Asked for every few seconds by supervisors and drivers: their lines are for debugging.
FREQUENT = ("/healthz", "/readyz", f"{API_PREFIX}/attempts/")
#: In the state of a request: who sent it.
WHO = "request_sender"
#: Longest path that a line shows.
PATH_CHARACTERS = 200

log = logging.getLogger("service.access")


class RequestLogMiddleware:
    """Gives each request an id, the client's own if it has one, and logs it once it is answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = dict(scope["headers"]).get(HEADER, b"")
        identifier = given if ID.fullmatch(given) else secrets.token_hex(8).encode()
        state = scope.setdefault("state", {})
        state[REQUEST_STATE] = identifier.decode()
        status, began = 0, time.monotonic()

        async def send_identified(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (HEADER, identifier)]}
            await send(message)

        try:
            await self._app(scope, receive, send_identified)
        except Exception:
            status = 500
            raise
        finally:
            self._log(scope, status, time.monotonic() - began)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        level = logging.DEBUG if scope["path"].startswith(FREQUENT) and 0 < status < 400 else logging.INFO
        if log.isEnabledFor(level):
            path = scope.get("raw_path", b"").partition(b"?")[0].decode("ascii", "replace")[:PATH_CHARACTERS]
            address = scope["client"][0] if scope.get("client") else "-"
            who = scope["state"].get(WHO, "-")
            answer = status or "no answer"
            line = "%s %s %s %s by %r from %s in %.0f ms"
            log.log(
                level, line, scope["state"][REQUEST_STATE], scope["method"], path, answer, who, address, seconds * 1000
            )


def request_id(scope: Scope) -> str:
    """The id of a request."""
    found: str = scope.get("state", {}).get(REQUEST_STATE, "")
    return found


def note(scope: Scope, who: str) -> None:
    """Say who sent a request, for its line."""
    scope.setdefault("state", {})[WHO] = who
