"""Logs: what drivers and trials said, piece by piece, also after their processes and nodes are gone.

They are read from the experiment's storage; of a driver that died before it wrote there, from what Ray kept of it.
It must not know HTTP.
"""

from __future__ import annotations

from search_spaces.protocol import ENDED_TRIAL_STATES
from service.adapters import experiment_files
from service.adapters.experiment_files import TextChunk
from service.adapters.launcher import ClusterUnreachableError
from service.context import AppContext
from service.contract.errors import NotFoundError, UnavailableError
from service.contract.schemas import LogChunk
from service.contract.states import ACTIVE
from service.domain import attempts, experiments, trials
from service.domain.attempts import OPEN


def of_driver(context: AppContext, experiment_id: str, attempt: int | None, offset: int, limit: int) -> LogChunk:
    """A piece of the log of an attempt, the newest unless given. Raises NotFoundError, UnavailableError."""
    with context.database.read() as session:
        experiment = experiments.find(session, experiment_id)
        found = attempts.of_number(session, experiment_id, attempt or experiment.attempt)
    if found is None:
        why = f"it has {experiment.attempt} so far" if attempt else experiment.reason or "it has not been started"
        which = f"attempt {attempt}" if attempt else "attempt"
        raise NotFoundError(f"experiment {experiment_id} has no {which} whose log could be read: {why}")
    over = found.state not in OPEN
    try:
        path = context.files(experiment_id).driver_log(found.number)
        return _view(experiment_files.read_chunk(path, offset, limit, over), over, found.number)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unreadable(found.id, error) from None
    try:
        kept = context.launcher.logs(found.id).encode()
    except ClusterUnreachableError as error:
        raise UnavailableError(
            f"{found.id} has no log on its storage, and what Ray kept cannot be read: {error}"
        ) from None
    if not kept:
        raise NotFoundError(f"{found.id} has said nothing{'' if over else ' yet'}: neither on its storage nor to Ray")
    return _view(
        experiment_files.decode_chunk(kept[offset : offset + limit], offset, len(kept), over), over, found.number
    )


def of_trial(context: AppContext, experiment_id: str, trial: int, offset: int, limit: int) -> LogChunk:
    """A piece of the log of a trial. Raises NotFoundError, UnavailableError."""
    with context.database.read() as session:
        experiment = experiments.find(session, experiment_id)
        line = trials.find(session, experiment_id, trial)
    over = line.state in ENDED_TRIAL_STATES or experiment.state not in ACTIVE
    try:
        return _view(
            experiment_files.read_chunk(context.files(experiment_id).trial_log(trial), offset, limit, over), over
        )
    except FileNotFoundError:
        when = "" if over else " yet"
        raise NotFoundError(
            f"trial {trial} of experiment {experiment_id} is {line.state} and has no log{when}"
        ) from None
    except OSError as error:
        raise _unreadable(f"trial {trial} of experiment {experiment_id}", error) from None


def _unreadable(whose: str, error: OSError) -> UnavailableError:
    return UnavailableError(f"the log of {whose} cannot be read: {error}")


def _view(piece: TextChunk, over: bool, attempt: int | None = None) -> LogChunk:
    return LogChunk(
        text=piece.text,
        offset=piece.offset,
        next_offset=piece.next_offset,
        size=piece.size,
        complete=over and piece.next_offset >= piece.size,
        attempt=attempt,
    )
