"""Routes: each module here holds the routes of one subject in its `router`. A new module is found by itself.

Routes are thin: they parse a request, call one function and describe the response. Paths and operation ids are part of
the interface: an operation id is the name of the route's function.
"""

from __future__ import annotations

import importlib
import pkgutil

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute

from service.api.dependencies import reject_repeated


def install(app: FastAPI) -> None:
    """Add every route of this package to the application, in the order of the modules' names."""
    shared = [Depends(reject_repeated)]
    for router in _routers():
        app.include_router(router, dependencies=shared, generate_unique_id_function=_operation_id)


def all_routes() -> list[APIRoute]:
    """Every route of this package, with its whole path."""
    return [route for router in _routers() for route in router.routes if isinstance(route, APIRoute)]


def _routers() -> list[APIRouter]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [importlib.import_module(f"{__name__}.{name}").router for name in names]


def _operation_id(route: APIRoute) -> str:
    return route.name
