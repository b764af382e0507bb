"""The route of drivers: progress in, orders out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Path

from search_spaces.protocol import Directives, Heartbeat
from service.api.dependencies import Service, Token
from service.api.error_handlers import error_responses
from service.contract.errors import (
    ConflictError,
    ContentTooLargeError,
    ForbiddenError,
    NotFoundError,
    UnauthorizedError,
    ValidationFailedError,
)
from service.domain import attempts

router = APIRouter(prefix="/attempts", tags=["drivers"])

AttemptId = Annotated[str, Path(examples=["exp-k3v9q2mz-a1"])]


@router.post(
    "/{attempt_id}/heartbeat",
    responses=error_responses(
        UnauthorizedError, ForbiddenError, NotFoundError, ConflictError, ContentTooLargeError, ValidationFailedError
    ),
)
def heartbeat(service: Service, attempt_id: AttemptId, token: Token, body: Heartbeat) -> Directives:
    """For drivers only. 409 means: you are no longer wanted, stop and write nothing."""
    with service.database.write() as session:
        orders = attempts.handle_heartbeat(session, attempt_id, token, body, datetime.now(UTC), service.retries)
    if body.phase in attempts.FINAL or any(line.ended_at is not None for line in body.trials):
        service.wake.set()  # its slots are free for others
    return orders
