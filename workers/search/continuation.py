"""Continuation: the trials of another experiment, with which this one begins.

Owns what is imported and how: the journal entries of the trials that have a result, their specs, what is known of
their data, and the weights of the best one. They are numbered from 0 in this experiment; nothing of the other
experiment is changed. No message names it: it may be another team's. It must not know Ray, MLflow or the service.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import PurePath

from search_spaces.layout import NAMES
from search_spaces.protocol import IMPORTED_STATES
from search_spaces.replicates import is_replicate
from search_spaces.storage.base import ArtifactStore, ExperimentStorage, JournalDamagedError, open_storage
from workers.failures.attempt import AttemptError
from workers.failures.classification import sentence
from workers.state.events import DataAgreed, EpochFinished, Event, TrialEnded, TrialSuggested, decode_all
from workers.state.recorder import Recorder

log = logging.getLogger(__name__)

IMPORTED_EVENTS = TrialSuggested | EpochFinished | TrialEnded


class SourceMissingError(AttemptError):
    """The trials of the source cannot be read."""

    blocked = True


#: What an entry causes that somebody edited, or that a newer version wrote.
UNREADABLE = AttributeError, LookupError, TypeError, ValueError


def import_trials(address: str, storage: ExperimentStorage, recorder: Recorder) -> int:
    """Fill `recorder`, which has no trials, with the results of another experiment. Returns the number of its trials.

    `address` is that of the other experiment's storage, `storage` is this experiment's. A crash on the way leaves
    `recorder` empty. Raises SourceMissingError if the other's journal is missing, damaged in all its copies, or has an
    entry that cannot be read, and OSError.
    """
    try:
        return _import(address, storage, recorder)
    except UNREADABLE as error:
        raise SourceMissingError(
            f"cannot import the trials of the source experiment: its journal has an entry that this version cannot "
            f"read: {sentence(error)}"
        ) from error


def _import(address: str, storage: ExperimentStorage, recorder: Recorder) -> int:
    source = open_storage(address)
    everything = _read(source)
    events = [event for event in everything if isinstance(event, IMPORTED_EVENTS)]
    state = {event.trial: event.state for event in events if not isinstance(event, TrialSuggested) and event.state}
    numbers = [
        number
        for number in sorted(state)
        if state[number] in IMPORTED_STATES
        and not is_replicate(number)
        and source.artifacts.exists(NAMES.trial(number).spec)
    ]
    renumbered = {theirs: ours for ours, theirs in enumerate(numbers)}
    for theirs, ours in renumbered.items():
        _copy(source.artifacts, NAMES.trial(theirs).spec, storage.artifacts, NAMES.trial(ours).spec)
        _copy_if_there(
            source.artifacts, NAMES.trial(theirs).validation, storage.artifacts, NAMES.trial(ours).validation
        )
    if numbers:
        _copy_if_there(source.artifacts, NAMES.data_report, storage.artifacts, NAMES.data_report)
    imported = [
        replace(event, trial=renumbered[event.trial], source=f"{PurePath(address).name}/{event.trial}", held_s=None)
        for event in events
        if event.trial in renumbered
    ]
    if imported:
        recorder.record_import([*(event for event in everything if isinstance(event, DataAgreed)), *imported])
    best = recorder.table.best()
    if best is not None:
        weights, copied = NAMES.trial(numbers[best.number]).best, NAMES.trial(best.number).best
        try:
            _copy(source.artifacts, weights, storage.artifacts, copied)
        except OSError as error:  # the trial is trained again if it wins
            log.warning("the weights of the best trial are not imported: %s", error.strerror)
    return len(numbers)


def _read(source: ExperimentStorage) -> list[Event]:
    """The other experiment's events. It does not run, so no driver repairs its journal, and this one must not."""
    if not source.journal.exists():
        raise SourceMissingError(
            "cannot import the trials of the source experiment: its journal is missing. "
            "Was its folder moved or deleted?"
        )
    try:
        return list(decode_all(source.journal.entries()))
    except JournalDamagedError:
        raise SourceMissingError(
            "cannot import the trials of the source experiment: an entry of its journal is missing or is not what was "
            "written"
        ) from None


def _copy_if_there(source: ArtifactStore, name: PurePath, target: ArtifactStore, new_name: PurePath) -> None:
    """What experiments of version 0.1 do not have."""
    if source.exists(name):
        _copy(source, name, target, new_name)


def _copy(source: ArtifactStore, name: PurePath, target: ArtifactStore, new_name: PurePath) -> None:
    with source.open_reader(name) as file:
        target.write(new_name, file.read())
