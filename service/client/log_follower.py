"""Log stream: the pieces of a log as they are written, one driver's after another's.

Owns what is waited for, and when nothing more will come. It knows the SDK alone, and must not know terminals.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from search_spaces.protocol import ENDED_TRIAL_STATES
from service.contract.errors import NotFoundError, UnavailableError
from service.contract.schemas import ExperimentView, LogChunk
from service.contract.states import ACTIVE

if TYPE_CHECKING:
    from service.client import Client


def whole(client: Client, experiment_id: str, trial: int | None, attempt: int | None) -> Iterator[LogChunk]:
    """What there is now. Raises NotFoundError where there is nothing."""
    offset = 0
    while True:
        piece = client.logs(experiment_id, trial=trial, attempt=attempt, offset=offset)
        if piece.next_offset == offset:
            return
        yield piece
        offset, attempt = piece.next_offset, piece.attempt


def follow(
    client: Client, experiment_id: str, trial: int | None, attempt: int | None, interval_s: float, patience_s: float
) -> Iterator[LogChunk]:
    """Each piece as it comes: of one trial or attempt until that has ended, else of the newest driver and of those that
    replace it until the experiment is at rest.

    Waits for a driver or trial that has yet to begin, and bears a service that is away for `patience_s`. Raises
    NotFoundError where there is nothing and nothing will be.
    """
    number, offset, said, over = attempt, 0, False, False
    answered = time.monotonic()
    while True:
        piece, view, missing, ended = None, None, None, False
        try:
            try:
                piece = client.logs(experiment_id, trial=trial, attempt=number, offset=offset)
            except NotFoundError as error:
                missing = error
            if piece is None or piece.complete:
                view = client.get(experiment_id)
            if piece is None and trial is not None:
                ended = _has_ended(client, experiment_id, trial)
            answered = time.monotonic()
        except UnavailableError:
            if time.monotonic() - answered > patience_s:
                raise
        if piece is not None and piece.next_offset > offset:
            offset, number, said = piece.next_offset, piece.attempt, True
            yield piece
            if view is None:
                continue
        if view is not None and trial is None and attempt is None and view.attempt > (number or 0):
            number, offset = number + 1 if number else view.attempt, 0
            continue
        if view is not None and (ended or not _more_may_come(view, piece, trial, attempt)):
            if missing is None or said:
                return
            if over:
                raise missing
            over = True  # it may have written and ended between two answers: look once more
            continue
        time.sleep(interval_s)


def _has_ended(client: Client, experiment_id: str, trial: int) -> bool:
    """False for a trial that has yet to begin."""
    try:
        return client.trial(experiment_id, trial).state in ENDED_TRIAL_STATES
    except NotFoundError:
        return False


def _more_may_come(view: ExperimentView, piece: LogChunk | None, trial: int | None, attempt: int | None) -> bool:
    """Of a log that is complete (`piece`), or that is not there yet."""
    if trial is not None:
        return piece is None and view.state in ACTIVE and trial < view.num_samples
    if attempt is not None:
        return piece is None and any(one.number == attempt and one.ended_at is None for one in view.attempts)
    return view.state in ACTIVE
