"""App: the service put together. `create_app` builds it from settings; `python -m service.app` serves it."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from service import docs, responses
from service.cluster import ClusterWatch
from service.context import Context
from service.launcher import Launcher, RayLauncher
from service.limits import BodyLimit
from service.reconciler import Reconciler
from service.results import Results
from service.routes import attempts, catalog, experiments, system, trials
from service.settings import Settings
from service.store.database import Database

PREFIX = "/api/v1"


def create_app(settings: Settings, launcher: Launcher | None = None) -> FastAPI:
    """The service as an ASGI application. Its database is opened and migrated at start, not before."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context = await run_in_threadpool(_open, settings, launcher)
        app.state.context = context
        reconciler = Reconciler(context) if settings.reconcile else None
        if reconciler:
            reconciler.start()
        try:
            yield
        finally:
            if reconciler:
                await run_in_threadpool(reconciler.stop)
            context.results.close()
            context.database.close()

    app = FastAPI(
        title="Rung",
        version=version("rung"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{PREFIX}/openapi.json",
    )
    app.add_middleware(BodyLimit, most_bytes=settings.max_body_bytes, most_heartbeat_bytes=settings.max_heartbeat_bytes)
    responses.install(app)
    docs.install(app)
    for module in (experiments, trials, catalog, system, attempts):
        app.include_router(module.router, prefix=PREFIX)
    app.include_router(system.health)
    app.include_router(system.health, prefix=PREFIX, include_in_schema=False)
    return app


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings()
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port, access_log=False, log_config=None)


def _open(settings: Settings, launcher: Launcher | None) -> Context:
    database = Database(settings.sqlalchemy_url)
    database.migrate()
    return Context(
        settings=settings,
        database=database,
        watch=ClusterWatch(),
        launcher=launcher or RayLauncher(settings),
        results=Results(settings),
        wake=threading.Event(),
    )


if __name__ == "__main__":
    main()
