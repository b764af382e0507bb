"""Request meter: how long each request takes, by the template of its route, and what it is about. Pure ASGI.

Owns what is measured of a request, and that its labels have a closed set of values: an unknown path is one label. What
is logged meanwhile has the ids of its path. It must not know what any route does.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.adapters.measurements import ABANDONED, OTHER, Measurements

#: The parameters of paths that name what a request is about, and what the log calls each.
LOGGED = {"experiment_id": "experiment", "attempt_id": "attempt", "trial": "trial"}


class RequestMeterMiddleware:
    """Counts every request, also one that another middleware refuses."""

    def __init__(self, app: ASGIApp, routes: Iterable[Route]) -> None:
        self._app = app
        self._routes = tuple(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        measurements: Measurements = scope["app"].state.context.measurements
        template, parameters = self._route(scope)
        began, status = time.perf_counter(), ABANDONED

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            with logs.about(**{LOGGED[name]: str(value) for name, value in parameters.items() if name in LOGGED}):
                await self._app(scope, receive, send_noted)
        except Exception:
            status = "500"  # Starlette answers outside of every middleware
            raise
        finally:
            measurements.count_request(scope["method"], template, status, time.perf_counter() - began)

    def _route(self, scope: Scope) -> tuple[str, dict[str, Any]]:
        """The template of the path, and the parameters in it."""
        for route in self._routes:
            match, found = route.matches(scope)
            if match is not Match.NONE:
                return route.path, found["path_params"]
        return OTHER, {}
