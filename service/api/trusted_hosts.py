"""Trusted hosts: which requests are accepted, by their Host and Origin headers. Pure ASGI.

A page in somebody's browser can post to this machine, or bind a name of its own to its address. Such requests carry a
foreign Origin or Host and are refused. The command line, the SDK and drivers send no Origin.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from search_spaces.problems import Problem, shorten
from service.api.error_handlers import problem_response
from service.contract.errors import BadRequestError, ForbiddenError, RungError

ANY = "*"


class HostOriginMiddleware:
    """Answers 400 to a Host that is not in `hosts` (names without ports; `*` for any), 403 to a foreign Origin."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._check(dict(scope["headers"])) if scope["type"] == "http" else None
        if error is not None:
            return await problem_response(error)(scope, receive, send)
        return await self._app(scope, receive, send)

    def _check(self, headers: dict[bytes, bytes]) -> RungError | None:
        close = {"Connection": "close"}  # the body is never read
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if ANY not in self._hosts and hostname(f"//{host}") not in self._hosts:
            problem = Problem("Host", f"must be one of {', '.join(sorted(self._hosts))}", shorten(host))
            return BadRequestError(str(problem), [problem], close)
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin and origin.partition("://")[2] != host:
            problem = Problem("Origin", "must be absent or the URL of this service", shorten(origin))
            detail = f"a page of {shorten(origin)!r} may not send requests to {shorten(host)!r}"
            return ForbiddenError(detail, [problem], close)
        return None


def hostname(url: str) -> str:
    """The host name in a URL, in lower case; empty where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
