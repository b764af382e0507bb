"""App: the service put together. `create_app` builds it from settings; `python -m service.app` serves it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from search_spaces.protocol import API_PREFIX
from service.adapters.cluster_cache import ClusterCache
from service.adapters.launcher import Launcher
from service.adapters.mlflow_client import MlflowClient
from service.adapters.ray_jobs import RayLauncher
from service.adapters.ray_warm_workers import WarmWorkers
from service.api import error_handlers, openapi
from service.api.body_limit import MaxBodySizeMiddleware
from service.api.routes import actions, attempts, catalog, logs, system, trials
from service.api.routes import experiments as experiment_routes
from service.api.trusted_hosts import HostOriginMiddleware
from service.cleanup.worker import CleanupWorker
from service.context import AppContext
from service.domain import experiments
from service.scheduling.reconciler import Reconciler
from service.settings import Settings
from service.store.database import Database


def create_app(settings: Settings, launcher: Launcher | None = None) -> FastAPI:
    """The service as an ASGI application. Its database is opened and migrated at start, not before."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context = await run_in_threadpool(_open, settings, launcher)
        app.state.context = context
        reconciler = Reconciler(context) if settings.reconcile else None
        cleanup = _cleanup_worker(context, reconciler) if reconciler else None
        warm_workers = _warm_workers(context)
        if reconciler:
            reconciler.start()
        if cleanup:
            cleanup.start()
        if warm_workers:
            warm_workers.start()
        try:
            yield
        finally:
            if warm_workers:
                warm_workers.stop()
            if cleanup:
                await run_in_threadpool(cleanup.stop)
            if reconciler:
                await run_in_threadpool(reconciler.stop)
            context.mlflow.close()
            context.database.close()

    app = FastAPI(
        title="Rung",
        version=version("rung"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{API_PREFIX}/openapi.json",
    )
    app.add_middleware(
        MaxBodySizeMiddleware, max_bytes=settings.max_body_bytes, max_heartbeat_bytes=settings.max_heartbeat_bytes
    )
    app.add_middleware(HostOriginMiddleware, hosts=settings.hosts)
    error_handlers.install(app)
    openapi.install(app)
    for module in (experiment_routes, actions, trials, logs, catalog, system, attempts):
        app.include_router(module.router, prefix=API_PREFIX)
    app.include_router(system.health)
    app.include_router(system.health, prefix=API_PREFIX, include_in_schema=False)
    return app


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = Settings()
    except ValidationError as error:  # without the values: one may be a password
        wrong = [
            f"RUNG_{'.'.join(map(str, one['loc'])).upper()}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors()
        ]
        sys.exit("\n".join(wrong))
    uvicorn.run(create_app(settings), host=settings.host, port=settings.port, access_log=False, log_config=None)


def _open(settings: Settings, launcher: Launcher | None) -> AppContext:
    database = Database(settings.sqlalchemy_url)
    database.migrate()
    return AppContext(
        settings=settings,
        database=database,
        cluster_cache=ClusterCache(),
        launcher=launcher or RayLauncher(settings),
        mlflow=MlflowClient(settings),
        wake=threading.Event(),
    )


def _cleanup_worker(context: AppContext, reconciler: Reconciler) -> CleanupWorker:
    return CleanupWorker(context, lambda: reconciler.held)


def _warm_workers(context: AppContext) -> WarmWorkers | None:
    if not (context.settings.reconcile and context.settings.warm_workers and isinstance(context.launcher, RayLauncher)):
        return None

    def idle() -> bool:
        with context.database.read() as session:
            return not experiments.any_active(session)

    return WarmWorkers(context.settings.warm_workers, context.launcher.raylets, idle)


if __name__ == "__main__":
    main()
