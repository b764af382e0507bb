"""Routes of an experiment's files: its logs and its size."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from search_spaces.protocol import API_PREFIX
from service.adapters.experiment_files import MAX_CHUNK_BYTES
from service.api import headers, log_chunks
from service.api.access import VisibleExperiment
from service.api.callers import may
from service.api.dependencies import TrialNumber
from service.api.error_handlers import error_responses, unavailable
from service.api.integers import Integer
from service.contract.errors import SEE_LOG, NotFoundError, UnavailableError, ValidationFailedError
from service.contract.schemas import DiskUse, LogChunk
from service.domain import attempts, trials
from service.identity.permissions import Permission

router = APIRouter(prefix=f"{API_PREFIX}/experiments/{{experiment_id}}", tags=["logs"])

LOG_RESPONSES = {
    200: headers.success("A part of the log."),
    **error_responses(NotFoundError, ValidationFailedError, UnavailableError),
}


class LogPosition(BaseModel):
    """Where to read. Unknown parameters are errors, as everywhere."""

    model_config = ConfigDict(extra="forbid")

    offset: Integer = Field(0, ge=0, lt=2**62, description="First byte to read: the `next_offset` of the part before.")
    limit: Integer = Field(2**16, ge=16, le=MAX_CHUNK_BYTES, description="Largest number of bytes to read.")


class DriverLogPosition(LogPosition):
    attempt: Integer | None = Field(
        None, ge=1, lt=2**31, description="Number of the attempt whose driver wrote the log; by default the newest."
    )


@router.get(
    "/logs", summary="Read the log of a driver", dependencies=[may(Permission.LOG_READ)], responses=LOG_RESPONSES
)
def show_driver_log(visible: VisibleExperiment, query: Annotated[DriverLogPosition, Query()]) -> LogChunk:
    """Returns a part of the log of one of the experiment's drivers. Read on from `next_offset` until `complete`."""
    with visible.read() as (session, experiment):
        attempt = attempts.of_number(session, experiment.id, query.attempt or experiment.attempt)
    if attempt is None:
        raise log_chunks.no_driver_log(experiment, query.attempt)
    return log_chunks.of_driver(visible.context, attempt, query.offset, query.limit)


@router.get(
    "/trials/{trial}/logs",
    summary="Read the log of a trial",
    dependencies=[may(Permission.LOG_READ)],
    responses=LOG_RESPONSES,
)
def show_trial_log(visible: VisibleExperiment, trial: TrialNumber, query: Annotated[LogPosition, Query()]) -> LogChunk:
    """Returns a part of the log of one trial. Read on from `next_offset` until `complete`."""
    with visible.read() as (session, experiment):
        row = trials.find(session, experiment, trial)
    return log_chunks.of_trial(visible.context, experiment, row, query.offset, query.limit)


@router.get(
    "/storage",
    summary="Get the disk space that an experiment uses",
    dependencies=[may(Permission.EXPERIMENT_READ)],
    responses={200: headers.success("The sizes."), **error_responses(NotFoundError, UnavailableError)},
)
def show_storage(visible: VisibleExperiment) -> DiskUse:
    """Returns the size of the experiment's files by kind, counted within the last minute."""
    with visible.read() as (_, experiment):
        files = visible.context.files(experiment.id)
    if visible.context.storage_probe.unavailable_reason():  # elsewhere there would seem to be nothing
        raise UnavailableError(f"the files of {experiment.id} cannot be counted; {SEE_LOG}")
    try:
        sizes = visible.context.disk_use.sizes(files)
    except OSError as error:
        raise unavailable(f"the files of {experiment.id} cannot be counted", error) from None
    return DiskUse(folder=files.address, total_bytes=sum(sizes.values()), bytes_by_kind=sizes)
