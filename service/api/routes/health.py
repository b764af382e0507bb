"""Routes for load balancers and supervisors: whether the process lives, and whether it is ready."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Response
from sqlalchemy.exc import SQLAlchemyError

from search_spaces.protocol import API_PREFIX
from service.api import headers, thread_pools
from service.api.callers import public
from service.api.dependencies import CurrentContext
from service.api.thread_pools import CurrentPools
from service.context import AppContext
from service.contract.errors import SEE_LOG
from service.contract.schemas import Check, Health, Readiness
from service.store.database import Database, DatabaseFileLostError, DatabaseReadOnlyError

#: What everybody may know of an outage.
NO_DATABASE = f"the database does not answer; {SEE_LOG}"
NO_FILE = f"the file of the database was deleted or replaced; {SEE_LOG}"
READ_ONLY = f"the database is read-only; {SEE_LOG}"
NO_SPACE = "the disk of the database is full"
NO_STORAGE = f"RUNG_STORAGE_ROOT cannot be read, or is not the storage of this database; {SEE_LOG}"
NO_MLFLOW = f"MLflow does not answer; {SEE_LOG}"

log = logging.getLogger(__name__)
router = APIRouter(tags=["system"])


@router.get(
    "/healthz",
    summary="Check liveness",
    dependencies=[public()],
    responses={200: headers.success("The process answers.")},
)
@router.get(f"{API_PREFIX}/healthz", include_in_schema=False, dependencies=[public()])
async def show_health() -> Health:
    """Answers 200 as long as the process runs."""
    return Health(status="ok")


@router.get(
    "/readyz",
    summary="Check readiness",
    dependencies=[public()],
    responses={
        200: headers.success("The service accepts specs."),
        503: {"model": Readiness, "description": "The database does not work."},
    },
)
@router.get(f"{API_PREFIX}/readyz", include_in_schema=False, dependencies=[public()])
async def show_readiness(context: CurrentContext, pools: CurrentPools, response: Response) -> Readiness:
    """Returns the state of the database, Ray and MLflow. Only the database decides whether the service is ready."""
    return await thread_pools.run(pools.readiness, lambda: _readiness(context, response))


def _readiness(context: AppContext, response: Response) -> Readiness:
    database = _check(_outage(context.database))
    if not database.ok:
        response.status_code = 503
    snapshot = context.cluster_cache.snapshot
    mlflow = context.mlflow_probe.unavailable_reason()
    return Readiness(
        ready=database.ok,
        database=database,
        ray=_check(snapshot.why if snapshot.cluster is None else ""),
        mlflow=_check(mlflow and NO_MLFLOW),
        storage=_check(context.storage_probe.unavailable_reason() and NO_STORAGE if database.ok else ""),
    )


def _check(outage: str) -> Check:
    return Check(ok=not outage, detail=outage, why=outage)


def _outage(database: Database) -> str:
    try:
        database.ping()
    except DatabaseFileLostError as error:
        log.warning("the database is lost: %s", error)
        return NO_FILE
    except DatabaseReadOnlyError as error:
        log.warning("the database is read-only: %s", error)
        return READ_ONLY
    except SQLAlchemyError as error:
        log.warning("the database does not answer: %s", error)
        return NO_DATABASE
    return NO_SPACE if database.is_full else ""
