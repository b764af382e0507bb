"""Callers: who sends a request, and what a route needs of them.

A route declares exactly one permission, `dependencies=[may(Permission...)]`, or that it is `public`. `check_declared`
refuses an application with a route that declares none, so that it cannot be forgotten. The caller is found by
`authentication.IdentityMiddleware` before anything of the body is read. What is about one object is decided where the
object is found (`access`), so that what one may not see is absent.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Request, params
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import Scope

from service.contract.errors import ForbiddenError, UnauthorizedError
from service.identity.audit import Act
from service.identity.permissions import Permission, allows, allows_somewhere, refusal
from service.identity.principals import Principal

# Annotations of this module are no strings: FastAPI finds the names of a string in a function, not in an object.

#: In the state of a request (`request.state`): its caller.
CALLER = "caller"
#: Parts of a path by which a route finds an object that has a team; the lookup checks the permission there.
OBJECTS = ("{experiment_id}", "{team}")

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="token",
    description="The token of a person or a program: `rung token create NAME` prints one.",
)


class UndeclaredPermissionError(Exception):
    """A route declares no permission, or several."""


@dataclass(frozen=True)
class Caller:
    """Who sends the request, what its route needs, and what the audit log will say of it."""

    principal: Principal
    permission: Permission
    act: Act

    def with_permission(self, permission: Permission) -> "Caller":
        """The same caller, of whom a part of the request needs another permission."""
        return replace(self, permission=permission)

    def may(self, team: str | None) -> bool:
        return allows(self.principal, self.permission, team)

    def check(self, permission: Permission) -> None:
        """Raises ForbiddenError for a part of the request that the caller may do nowhere."""
        part = self.with_permission(permission)
        if not allows_somewhere(self.principal, permission):
            raise part.refusal()

    def refusal(self, team: str | None = None) -> ForbiddenError:
        return ForbiddenError(refusal(self.principal, self.permission, team))


@dataclass(frozen=True)
class Granted:
    """A dependency of a route: its caller has the permission somewhere."""

    permission: Permission

    async def __call__(
        self, request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> None:
        caller = await _caller(request)
        has_object = any(part in request.scope["route"].path for part in OBJECTS)
        if not has_object and not allows_somewhere(caller.principal, self.permission):
            raise caller.refusal()


@dataclass(frozen=True)
class Attempts:
    """A dependency of the route that drivers use, which checks the token of their attempt itself."""

    permission: Permission = Permission.ATTEMPT_BEAT

    async def __call__(self) -> None:
        """Nothing: which attempt's token is needed is in the path."""


@dataclass(frozen=True)
class Public:
    """A dependency of a route that needs no caller."""

    async def __call__(self) -> None:
        """Nothing to check."""


def may(permission: Permission) -> params.Depends:
    """What a route needs of its caller."""
    return params.Depends(Attempts() if permission is Permission.ATTEMPT_BEAT else Granted(permission))


def public() -> params.Depends:
    """For a route that everybody may use: what it answers says nothing of people, teams or experiments."""
    return params.Depends(Public())


def declared(route: APIRoute) -> Permission | None:
    """The permission that a route declares; None for a public one. Raises UndeclaredPermissionError."""
    found = [one.dependency for one in route.dependencies if isinstance(one.dependency, Granted | Attempts | Public)]
    if len(found) != 1:
        methods = ", ".join(sorted(route.methods or ()))
        raise UndeclaredPermissionError(
            f"{methods} {route.path} must declare exactly one permission, or that it is public (got {len(found)})"
        )
    return None if isinstance(found[0], Public) else found[0].permission


def check_declared(routes: Iterable[APIRoute]) -> None:
    """Raises UndeclaredPermissionError for the first route without exactly one declaration."""
    for route in routes:
        declared(route)


def caller_of(scope: Scope) -> Caller | None:
    """The caller that the middleware found for a request."""
    found: Caller | None = scope.get("state", {}).get(CALLER)
    return found


async def _caller(request: Request) -> Caller:
    found = caller_of(request.scope)
    if found is None:  # the middleware lets no such request through
        raise UnauthorizedError("this needs a token")
    return found


CurrentCaller = Annotated[Caller, Depends(_caller)]
