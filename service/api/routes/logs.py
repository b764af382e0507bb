"""Routes of what an experiment keeps on its storage: its logs and its size."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from service.adapters.experiment_files import MAX_CHUNK_BYTES
from service.api import log_chunks
from service.api.dependencies import ExperimentId, Service
from service.api.error_handlers import error_responses
from service.api.routes.trials import TrialNumber
from service.contract.errors import NotFoundError, UnavailableError, ValidationFailedError
from service.contract.schemas import DiskUse, LogChunk
from service.domain import experiments

router = APIRouter(prefix="/experiments/{experiment_id}", tags=["logs"])


class Place(BaseModel):
    """Where to read. Unknown parameters are errors, as everywhere."""

    model_config = ConfigDict(extra="forbid")

    offset: int = Field(0, ge=0, lt=2**62, description="bytes; `next_offset` of the piece before")
    limit: int = Field(2**16, ge=16, le=MAX_CHUNK_BYTES, description="bytes at most")


class DriverPlace(Place):
    attempt: int | None = Field(None, ge=1, lt=2**31, description="number of the driver; default: the newest")


@router.get("/logs", responses=error_responses(NotFoundError, ValidationFailedError, UnavailableError))
def show_driver_log(service: Service, experiment_id: ExperimentId, query: Annotated[DriverPlace, Query()]) -> LogChunk:
    """What a driver said, piece by piece: ask again from `next_offset` until `complete`."""
    return log_chunks.of_driver(service, experiment_id, query.attempt, query.offset, query.limit)


@router.get("/trials/{trial}/logs", responses=error_responses(NotFoundError, ValidationFailedError, UnavailableError))
def show_trial_log(
    service: Service, experiment_id: ExperimentId, trial: TrialNumber, query: Annotated[Place, Query()]
) -> LogChunk:
    """What a trial said, piece by piece: ask again from `next_offset` until `complete`."""
    return log_chunks.of_trial(service, experiment_id, trial, query.offset, query.limit)


@router.get("/storage", responses=error_responses(NotFoundError))
def show_storage(service: Service, experiment_id: ExperimentId) -> DiskUse:
    """How much of the disk an experiment holds, counted now, file by file."""
    with service.database.read() as session:
        experiments.find(session, experiment_id)
    storage = service.files(experiment_id)
    sizes = storage.sizes()
    return DiskUse(folder=str(storage.folder), total_bytes=sum(sizes.values()), bytes_by_kind=sizes)
