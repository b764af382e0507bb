"""The route that drivers use: they report progress and get directives."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Path

from search_spaces.protocol import API_PREFIX, Directives, Heartbeat
from service.api import headers
from service.api.dependencies import CurrentContext, Token
from service.api.error_handlers import error_responses
from service.contract.errors import (
    BadRequestError,
    ConflictError,
    ContentTooLargeError,
    ForbiddenError,
    NotFoundError,
    UnauthorizedError,
    ValidationFailedError,
)
from service.domain import heartbeats
from service.domain.retry_policy import Transition

router = APIRouter(prefix=f"{API_PREFIX}/attempts", tags=["drivers"])

AttemptId = Annotated[str, Path(description="Identifier of the driver's attempt.", examples=["exp-k3v9q2mz-a1"])]


@router.post(
    "/{attempt_id}/heartbeat",
    summary="Report a driver's progress",
    responses={
        200: headers.success("What the driver must do now."),
        **error_responses(
            BadRequestError,
            UnauthorizedError,
            ForbiddenError,
            NotFoundError,
            ConflictError,
            ContentTooLargeError,
            ValidationFailedError,
        ),
    },
)
def send_heartbeat(context: CurrentContext, attempt_id: AttemptId, token: Token, body: Heartbeat) -> Directives:
    """Used by drivers. 409 means that a newer attempt has taken over: stop and write nothing more."""
    with context.database.write() as session:
        transition = Transition(datetime.now(UTC), context.retries)
        directives = heartbeats.handle_heartbeat(session, attempt_id, token, body, transition)
    if body.phase in heartbeats.FINAL_PHASES or any(update.ended_at is not None for update in body.trials):
        context.wake.set()  # its slots are free for others
    return directives
