"""Methods: HEAD works wherever GET does, OPTIONS lists the methods of a path, and 405 lists them too. Pure ASGI.

Starlette answers 405 from the first route whose path matches and knows its methods only. It must not know what any
route does.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import headers
from service.api.error_handlers import method_not_allowed, problem_response

#: Methods that change nothing.
READING = frozenset({"GET", "HEAD", "OPTIONS"})


class AllowedMethodsMiddleware:
    """Compares the method of a request with all methods of the routes that match its path."""

    def __init__(self, app: ASGIApp, routes: Iterable[Route]) -> None:
        self._app = app
        self._routes = tuple(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        method, allowed = scope["method"], self._allowed(scope)
        if not allowed or method in allowed - {"HEAD", "OPTIONS"}:
            return await self._app(scope, receive, send)
        if method == "HEAD" and "GET" in allowed:
            return await self._app({**scope, "method": "GET"}, receive, _without_body(send))
        ordered = tuple(sorted(allowed))
        if method == "OPTIONS":
            return await Response(status_code=204, headers={headers.ALLOW: ", ".join(ordered)})(scope, receive, send)
        return await problem_response(method_not_allowed(method, scope["path"], ordered))(scope, receive, send)

    def _allowed(self, scope: Scope) -> frozenset[str]:
        """Every method of the path; nothing for a path without a route."""
        matching = (route for route in self._routes if route.matches(scope)[0] is not Match.NONE)
        found = {method for route in matching for method in route.methods or ()}
        head = {"HEAD"} if "GET" in found else set()
        return frozenset(found | head | {"OPTIONS"}) if found else frozenset()


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head
