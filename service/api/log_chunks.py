"""Log chunks: parts of the logs of drivers and trials, also after their processes and nodes are gone.

Logs are read from the experiment's folder. Where a driver ended before it wrote there, they are read from what Ray kept
of its output. It must not know HTTP.
"""

from __future__ import annotations

from search_spaces.protocol import ENDED_TRIAL_STATES
from service.adapters import experiment_files
from service.adapters.experiment_files import TextChunk
from service.adapters.launcher import ClusterUnreachableError
from service.api.error_handlers import unavailable
from service.context import AppContext
from service.contract.errors import NotFoundError
from service.contract.schemas import LogChunk
from service.contract.states import ACTIVE, OPEN
from service.store.models import Attempt, Experiment, Trial


def of_driver(context: AppContext, attempt: Attempt, offset: int, limit: int) -> LogChunk:
    """A part of the log of an attempt's driver. Raises NotFoundError, UnavailableError."""
    ended = attempt.state not in OPEN
    try:
        chunk = context.files(attempt.experiment_id).driver_log(attempt.number, offset, limit, ended)
        return _response(chunk, ended, attempt.number)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise unavailable(f"the log of {attempt.id} cannot be read", error) from None
    try:
        kept = context.launcher.logs(attempt.id).encode()
    except ClusterUnreachableError as error:
        failure = f"{attempt.id} has no log in its folder, and Ray's copy of its output cannot be read"
        raise unavailable(failure, error) from None
    if not kept:
        raise NotFoundError(f"{attempt.id} has no log{'' if ended else ' yet'}, neither in its folder nor in Ray")
    chunk = experiment_files.decode_chunk(kept[offset : offset + limit], offset, len(kept), ended)
    return _response(chunk, ended, attempt.number)


def of_trial(context: AppContext, experiment: Experiment, trial: Trial, offset: int, limit: int) -> LogChunk:
    """A part of the log of a trial. Raises NotFoundError, UnavailableError."""
    ended = trial.state in ENDED_TRIAL_STATES or experiment.state not in ACTIVE
    which = f"trial {trial.trial} of experiment {experiment.id}"
    try:
        return _response(context.files(experiment.id).trial_log(trial.trial, offset, limit, ended), ended)
    except FileNotFoundError:
        raise NotFoundError(f"{which} is {trial.state} and has no log{'' if ended else ' yet'}") from None
    except OSError as error:
        raise unavailable(f"the log of {which} cannot be read", error) from None


def no_driver_log(experiment: Experiment, attempt: int | None) -> NotFoundError:
    """The error for an attempt that was never started; `attempt` is None where the newest was requested."""
    if attempt is not None:
        return NotFoundError(f"experiment {experiment.id} has no attempt {attempt}; it has {experiment.attempt} so far")
    why = experiment.reason or "it has not been started"
    return NotFoundError(f"experiment {experiment.id} has no driver whose log could be read: {why}")


def _response(chunk: TextChunk, ended: bool, attempt: int | None = None) -> LogChunk:
    return LogChunk(
        text=chunk.text,
        offset=chunk.offset,
        next_offset=chunk.next_offset,
        size=chunk.size,
        complete=ended and chunk.next_offset >= chunk.size,
        attempt=attempt,
    )
