"""App: the service put together. `create_app` builds it from settings; `python -m service.app` serves it."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

import uvicorn
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from search_spaces.protocol import API_PREFIX
from service import logs
from service.adapters.cluster_cache import ClusterCache
from service.adapters.disk_use import DiskUse
from service.adapters.launcher import BackgroundThread, Launcher, open_launcher
from service.adapters.measurements import Measurements
from service.adapters.mlflow_client import MlflowClient
from service.adapters.mlflow_workspaces import MlflowWorkspaces
from service.adapters.observations import Observations
from service.adapters.probe import Probe
from service.adapters.storage_identity import StorageIdentity
from service.api import callers, error_handlers, openapi, routes
from service.api.authentication import IdentityMiddleware
from service.api.body_limit import MaxBodySizeMiddleware
from service.api.connections import server_config
from service.api.load_limit import LoadLimitMiddleware
from service.api.methods import AllowedMethodsMiddleware
from service.api.request_log import RequestLogMiddleware
from service.api.request_meter import RequestMeterMiddleware
from service.api.scrapes import Scrapes
from service.api.security_headers import SecurityHeadersMiddleware
from service.api.thread_pools import ThreadPools
from service.api.trusted_hosts import HostOriginMiddleware
from service.checkup.examinations import Examinations
from service.cleanup.storage_keeper import StorageKeeper
from service.cleanup.worker import CleanupWorker
from service.context import AppContext, utc_now
from service.delivery.worker import DeliveryWorker
from service.domain import experiments
from service.environment import SettingsError, read_settings, unknown_variables
from service.http_client import EnvironmentUnusableError
from service.identity.authentication import open_authentication
from service.identity.owner_token import OwnerTokenError
from service.identity.secret_box import SecretBox
from service.identity.sign_in import SignIn
from service.scheduling.loop_clock import LoopClock
from service.scheduling.reconciler import LEASE, Reconciler
from service.settings import Settings
from service.store.database import Database, DatabaseUnusableError

log = logging.getLogger(__name__)

#: Files that the process opens beside its connections: those of the database, of requests of its own, logs, modules.
SPARE_FILES = 200


def create_app(settings: Settings, launcher: Launcher | None = None) -> FastAPI:
    """The service as an ASGI application. It opens and migrates its database when it starts to serve, not before."""
    return build_app(settings, lambda: open_context(settings, launcher))


def build_app(settings: Settings, opened: Callable[[], AppContext]) -> FastAPI:
    """The service over the context that `opened` returns when it starts to serve.

    Of `settings`, only the limits of requests and the allowed hosts are used. Raises UndeclaredPermissionError for a
    route that does not say who may use it.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as running:
            app.state.thread_pools = ThreadPools.create()
            app.state.context = context = await run_in_threadpool(opened)
            running.callback(context.close)
            app.state.scrapes = Scrapes(context)
            app.state.examinations = Examinations(context)
            running.callback(app.state.examinations.close)
            loop_clock = LoopClock()
            running.callback(asyncio.create_task(loop_clock.run()).cancel)
            for thread in _threads(context, loop_clock):
                thread.start()
                running.push_async_callback(run_in_threadpool, thread.stop)
            yield

    app = FastAPI(
        title="Rung",
        version=version("rung"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{API_PREFIX}/openapi.json",
    )
    error_handlers.install(app)
    openapi.install(app)
    routes.install(app)
    pages = [route for route in app.router.routes if isinstance(route, Route)]
    own = [*routes.all_routes(), *(page for page in pages if isinstance(page, APIRoute))]
    callers.check_declared(own)
    app.add_middleware(AllowedMethodsMiddleware, routes=[*routes.all_routes(), *pages])
    app.add_middleware(LoadLimitMiddleware, max_requests=settings.max_requests)
    app.add_middleware(
        MaxBodySizeMiddleware,
        max_bytes=settings.max_body_bytes,
        max_heartbeat_bytes=settings.max_heartbeat_bytes,
        timeout_s=settings.request_timeout_s,
    )
    app.add_middleware(IdentityMiddleware, routes=own)
    app.add_middleware(HostOriginMiddleware, hosts=settings.hosts)
    app.add_middleware(RequestMeterMiddleware, routes=routes.all_routes())
    app.add_middleware(RequestLogMiddleware)
    app.add_middleware(SecurityHeadersMiddleware, assets=openapi.ASSETS)
    return app


def open_context(settings: Settings, launcher: Launcher | None = None) -> AppContext:
    """Open the database, migrate it, and connect the parts. Raises EnvironmentUnusableError, DatabaseUnusableError,
    OwnerTokenError."""
    launcher = launcher or open_launcher(settings)
    database = Database.open(settings.sqlalchemy_url)
    mlflow = MlflowClient(settings)
    storage = StorageIdentity(database, settings.storage_root)
    storage_probe = Probe(f"RUNG_STORAGE_ROOT {settings.storage_root}", storage.check)
    storage_probe.unavailable_reason()  # the first start remembers the storage; it may also be mounted later
    return AppContext(
        settings=settings,
        database=database,
        cluster_cache=ClusterCache(),
        launcher=launcher,
        mlflow=mlflow,
        mlflow_probe=Probe(f"MLflow at {mlflow.uri}", mlflow.ping),
        disk_use=DiskUse(),
        storage=storage,
        storage_probe=storage_probe,
        measurements=Measurements(),
        observations=Observations(database, LEASE, settings.storage_root, utc_now),
        authentication=open_authentication(settings, database),
        sign_in=SignIn(settings),
        secrets=SecretBox(settings.secret_keys),
        wake=threading.Event(),
    )


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)  # as for other invalid commands
    logs.configure(sys.stderr, settings.log_format)
    _allow_files(settings)
    with _bound(settings) as bound:  # first: a second service of the same settings must neither migrate nor launch
        try:
            context = open_context(settings)
        except EnvironmentUnusableError as error:
            sys.exit(f"cannot send requests to MLflow: {error}")
        except DatabaseUnusableError as error:
            sys.exit(f"RUNG_DATABASE_URL: {error}")
        except OwnerTokenError as error:
            sys.exit(f"RUNG_HOME: {error}")
        for name in unknown_variables(os.environ):
            log.warning("ignoring %s: there is no such setting", name)
        app = build_app(settings, lambda: context)
        uvicorn.Server(server_config(app, settings)).run([bound])


def _allow_files(settings: Settings) -> None:
    """Raise the process's limit of open files so that all connections fit; a connection that cannot be accepted would
    keep the event loop busy. Exits where that is not allowed."""
    wanted = settings.max_connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard) and hard < wanted:
        sys.exit(
            f"RUNG_MAX_CONNECTIONS: {settings.max_connections} connections need {wanted} open files, and this process "
            f"may have {hard}: raise its limit (ulimit -n), or lower the setting"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _bound(settings: Settings) -> socket.socket:
    """The socket of the service, which does not accept connections yet. Exits where it cannot be had."""
    bound = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((settings.host, settings.port))
    except OSError as error:
        bound.close()
        sys.exit(f"RUNG_HOST, RUNG_PORT: cannot listen on {settings.host} port {settings.port}: {error.strerror}")
    return bound


def _threads(context: AppContext, loop_clock: LoopClock) -> list[BackgroundThread]:
    """The threads of a replica that runs the queue, in the order of their start; they stop in the opposite order."""
    if not context.settings.reconcile:
        return []
    reconciler = Reconciler(context, monotonic=loop_clock)
    cleanup = CleanupWorker(context, lambda: reconciler.held)
    storage = StorageKeeper(context, lambda: reconciler.held)
    delivery = DeliveryWorker(context, lambda: reconciler.held)
    workspaces = MlflowWorkspaces(context.database, context.mlflow, lambda: reconciler.held)
    kept = [workspaces] if context.settings.mlflow_workspaces else []
    return [reconciler, cleanup, storage, delivery, *kept, *context.launcher.threads(lambda: _is_idle(context))]


def _is_idle(context: AppContext) -> bool:
    with context.database.read() as session:
        return not experiments.any_active(session)


if __name__ == "__main__":
    main()
