"""What routes have in common: the service's context, the body as bytes, who sent it, and on what condition."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Path, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from search_spaces.protocol import API_PREFIX
from service.api import etags, serializers
from service.api.etags import Precondition
from service.context import AppContext
from service.contract.errors import UnauthorizedError
from service.contract.schemas import ExperimentView
from service.domain import experiments, idempotency
from service.store.models import Attempt

_bearer = HTTPBearer(auto_error=False, description="the token in the driver's launch file")


def _context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


async def _body(request: Request) -> bytes:
    return await request.body()


def _token(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    if credentials is None or not credentials.credentials:
        raise UnauthorizedError(
            "an Authorization header with a bearer token required", headers={"WWW-Authenticate": "Bearer"}
        )
    return credentials.credentials


def _precondition(
    if_match: Annotated[
        str | None,
        Header(
            max_length=1000,
            description="an ETag, several, or *: change the experiment only if it is still at that revision",
            examples=['"3"'],
        ),
    ] = None,
) -> Precondition:
    return etags.parse(if_match)


Service = Annotated[AppContext, Depends(_context)]
Body = Annotated[bytes, Depends(_body)]
Token = Annotated[str, Depends(_token)]
Key = Annotated[
    str | None,
    Header(
        alias=idempotency.HEADER,
        min_length=1,
        max_length=255,
        pattern=r"^[ -~]+$",
        description="printable ASCII of your own, fresh for each submission: sent again under the same key within a "
        "day, the same body makes no second experiment, and another body is refused",
        examples=["5f0c1b1e-2f0e-4a39-9a63-0a2a2b1c6d7e"],
    ),
]
IfMatch = Annotated[Precondition, Depends(_precondition)]
ExperimentId = Annotated[str, Path(description="as in the Location of the answer to its POST", examples=["k3v9q2mz"])]


class Paging(BaseModel):
    """Query parameters of a list. Unknown parameters are errors, so that no misspelled filter goes unnoticed."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=1000, description="items of a page")
    cursor: str | None = Field(None, max_length=1000, description="next_cursor of the page before")


def shown(session: Session, service: AppContext, response: Response, experiment_id: str) -> ExperimentView:
    """The view of an experiment as the session sees it, its revision in the answer's ETag. Raises NotFoundError."""
    experiment = experiments.find(session, experiment_id)
    counts = experiments.count_trials(session, [experiment_id])
    drivers = select(Attempt).where(Attempt.experiment_id == experiment_id).order_by(Attempt.number)
    response.headers["ETag"] = etags.etag(experiment.revision)
    return serializers.full(
        experiment,
        counts[experiment_id],
        list(session.scalars(drivers)),
        service.mlflow,
        service.cluster_cache.unreachable_reason,
    )


def stored(service: AppContext, response: Response, experiment_id: str, replayed: bool) -> ExperimentView:
    """The view of an experiment that a submission has made, now or (`replayed`) when its key came first."""
    response.headers["Location"] = f"{API_PREFIX}/experiments/{experiment_id}"
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    with service.database.read() as session:
        return shown(session, service, response, experiment_id)


#: Text that every database takes.
TEXT = r"^[^\x00]*$"
