"""Authentication of requests: finds the caller before anything of the body is read, and writes the audit log's row of
what was refused. Pure ASGI.

The routes say what they need (`callers`). It must not know what a permission allows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import quote

from fastapi.routing import APIRoute
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search_spaces.protocol import API_PREFIX
from service.api import headers, request_log, thread_pools
from service.api.callers import CALLER, Caller, declared
from service.api.error_handlers import database_error, problem_response
from service.api.methods import READING
from service.api.thread_pools import ThreadPools
from service.context import AppContext
from service.contract.errors import RungError, UnauthorizedError
from service.identity import audit
from service.identity.audit import Act, Outcome
from service.identity.permissions import Permission
from service.identity.principals import Principal

SCHEME = "bearer "

log = logging.getLogger(__name__)


class IdentityMiddleware:
    """Answers 401 to a request without a valid token for a route that needs one."""

    def __init__(self, app: ASGIApp, routes: Iterable[APIRoute]) -> None:
        self._app = app
        self._routes = [(route, declared(route)) for route in routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._route(scope) if scope["type"] == "http" else None
        if found is None:
            return await self._app(scope, receive, send)
        name, permission = found
        context: AppContext = scope["app"].state.context
        try:
            principal = await _principal(context, scope["app"].state.thread_pools, _token(scope))
        except (RungError, SQLAlchemyError) as error:
            return await _refusal(scope, error)(scope, receive, send)
        request_log.note(scope, principal.login or str(principal.kind))
        address = scope["client"][0] if scope.get("client") else ""
        act = Act(name, object_of(scope["path"]), address, request_log.request_id(scope), principal)
        scope.setdefault("state", {})[CALLER] = Caller(principal, permission, act)
        if scope["method"] in READING:
            return await self._app(scope, receive, send)

        async def send_recorded(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 500:
                await _complete(context, scope["app"].state.thread_pools, act, message["status"])
            await send(message)

        return await self._app(scope, receive, send_recorded)

    def _route(self, scope: Scope) -> tuple[str, Permission] | None:
        """Name and permission of the route of a request; None where no token of people is asked for."""
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        for route, permission in self._routes:
            if method in (route.methods or ()) and route.path_regex.match(scope["path"]):
                return None if permission in {None, Permission.ATTEMPT_BEAT} else (route.name, permission)
        return None


def object_of(path: str) -> str:
    """What a request is about, as the audit log names it: the first two parts of its path, such as `experiments/ID`."""
    parts = path.removeprefix(API_PREFIX).strip("/").split("/")
    return quote("/".join(parts[:2]), safe="/@+")


async def _principal(context: AppContext, pools: ThreadPools, token: str | None) -> Principal:
    authentication = context.authentication
    if not authentication.needs_a_thread:
        return authentication.principal(token)
    return await thread_pools.run(pools.identity, lambda: authentication.principal(token))


def _token(scope: Scope) -> str | None:
    """The bearer token; None without one, also for another scheme."""
    given = Request(scope).headers.get("authorization", "")
    return given[len(SCHEME) :].strip() if given.lower().startswith(SCHEME) else None


def _refusal(scope: Scope, error: RungError | SQLAlchemyError) -> ASGIApp:
    problem = error if isinstance(error, RungError) else database_error(error)
    if isinstance(problem, UnauthorizedError):
        problem.headers[headers.AUTHENTICATE] = "Bearer"
    if scope["method"] not in READING:
        problem.headers["Connection"] = "close"  # the body is never read
    return problem_response(problem)


async def _complete(context: AppContext, pools: ThreadPools, act: Act, status: int) -> None:
    """Record an act that its route did not: one that was refused, or had its effect before."""
    if act.is_recorded or act.changes_nothing:
        return
    outcome = Outcome.REFUSED if status >= 400 else Outcome.UNCHANGED

    def write() -> None:
        with context.database.write() as session:
            audit.record(session, act, datetime.now(UTC), outcome)

    try:
        await thread_pools.run(pools.audit, write)
    except SQLAlchemyError as error:
        log.warning("%s of %s (request %s) is not in the audit log: %s", act.action, act.object, act.request_id, error)
