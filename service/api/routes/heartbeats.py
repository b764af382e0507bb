"""The route that drivers use: they report progress and get directives."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from search_spaces.protocol import API_PREFIX, FINAL_PHASES, Directives, Heartbeat
from service.api import headers
from service.api.callers import may
from service.api.connections import IS_DRIVER
from service.api.dependencies import CurrentContext, Token
from service.api.error_handlers import error_responses
from service.api.thread_pools import CurrentPools, run
from service.context import AppContext
from service.contract.errors import (
    BadRequestError,
    ConflictError,
    ContentTooLargeError,
    ForbiddenError,
    UnauthorizedError,
    ValidationFailedError,
)
from service.contract.identity import MlflowAccess
from service.domain import attempts, heartbeats
from service.domain.retry_policy import Replacement
from service.identity import mlflow_users
from service.identity.permissions import Permission

router = APIRouter(prefix=f"{API_PREFIX}/attempts", tags=["drivers"])

AttemptId = Annotated[str, Path(description="Identifier of the driver's attempt.", examples=["exp-k3v9q2mz-a1"])]


HEARTBEAT_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Heartbeat"}}},
    }
}


@router.post(
    "/{attempt_id}/heartbeat",
    summary="Report a driver's progress",
    dependencies=[may(Permission.ATTEMPT_BEAT)],
    openapi_extra=HEARTBEAT_BODY,
    responses={
        200: headers.success("What the driver must do now."),
        **error_responses(
            BadRequestError,
            UnauthorizedError,
            ForbiddenError,
            ConflictError,
            ContentTooLargeError,
            ValidationFailedError,
        ),
    },
)
async def send_heartbeat(
    request: Request, context: CurrentContext, pools: CurrentPools, attempt_id: AttemptId, token: Token
) -> Directives:
    """Used by drivers.

    Returns 409 if this attempt is no longer current (replaced, lost or ended): stop and write nothing more.
    """
    # Nothing of the body is read before the token is known to be the attempt's.
    await run(pools.heartbeats, partial(_authenticate, context, attempt_id, token))
    setattr(request.state, IS_DRIVER, True)
    body = await request.body()
    return await run(pools.heartbeats, partial(_handle, context, attempt_id, token, body))


@router.get(
    "/{attempt_id}/mlflow",
    summary="Get what a driver may do in MLflow",
    dependencies=[may(Permission.ATTEMPT_BEAT)],
    responses={
        200: headers.success("The workspace of the experiment."),
        **error_responses(UnauthorizedError, ForbiddenError, ConflictError),
    },
)
async def show_driver_mlflow_access(
    context: CurrentContext, pools: CurrentPools, attempt_id: AttemptId, token: Token
) -> MlflowAccess:
    """Used by MLflow's server, with the token that a driver sent to it.

    Returns 409 if this attempt is no longer current (replaced, lost, or ended an hour ago): it writes nothing more.
    """
    return await run(pools.heartbeats, partial(_mlflow_access, context, attempt_id, token))


def _mlflow_access(context: AppContext, attempt_id: str, token: str) -> MlflowAccess:
    with context.database.read() as session:
        workspace = attempts.mlflow_workspace(session, attempt_id, token, datetime.now(UTC))
    return MlflowAccess(workspaces={workspace: mlflow_users.user(workspace, mlflow_users.DRIVER)})


def _authenticate(context: AppContext, attempt_id: str, token: str) -> None:
    with context.database.read() as session:
        attempts.authenticate(session, attempt_id, token)


def _handle(context: AppContext, attempt_id: str, token: str, body: bytes) -> Directives:
    heartbeat = _parse(body)
    with context.database.write() as session:
        replacement = Replacement(datetime.now(UTC), context.retries)
        directives = heartbeats.handle_heartbeat(session, attempt_id, token, heartbeat, replacement)
    context.measurements.report_backlog(
        attempt_id, 0.0 if heartbeat.phase in FINAL_PHASES else heartbeat.mlflow_behind_s
    )
    if heartbeat.phase in FINAL_PHASES or any(update.ended_at is not None for update in heartbeat.trials):
        context.wake.set()  # its slots are free for others
    return directives


def _parse(body: bytes) -> Heartbeat:
    try:
        return Heartbeat.model_validate(json.loads(body))  # pydantic's own parser refuses halves of surrogate pairs
    except ValidationError as error:
        found = error.errors(include_url=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in found]) from None
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"malformed JSON: {error}") from None
