"""Continuation: the trials of another experiment, with which this one begins.

Owns what is imported and how: the journal entries of the trials that have a result, their specs, and the weights of
the best one. They are numbered from 0 in this experiment; nothing of the other experiment is changed. It must not know
Ray, MLflow or the service.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

from search_spaces.layout import ExperimentFolder
from search_spaces.protocol import IMPORTED_STATES
from search_spaces.storage.base import JournalDamagedError, open_storage
from workers.search.stop_conditions import AttemptError
from workers.state.events import EpochFinished, Event, TrialEnded, TrialSuggested, decode_all
from workers.state.recorder import Recorder

log = logging.getLogger("rung.continuation")

IMPORTED_EVENTS = TrialSuggested | EpochFinished | TrialEnded


class SourceMissingError(AttemptError):
    """The trials to begin with cannot be read. The message says where they should be."""

    blocked = True


def import_trials(source: ExperimentFolder, folder: ExperimentFolder, recorder: Recorder) -> int:
    """Fill `recorder`, which has no trials, with the results of `source`. Returns the number of imported trials.

    `folder` is this experiment's. A crash on the way leaves `recorder` empty. Raises SourceMissingError if the journal
    of `source` is missing or both of its files are damaged, and OSError.
    """
    events = [event for event in _read(source) if isinstance(event, IMPORTED_EVENTS)]
    state = {event.trial: event.state for event in events if not isinstance(event, TrialSuggested) and event.state}
    numbers = [
        number
        for number in sorted(number for number, name in state.items() if name in IMPORTED_STATES)
        if source.trial(number).spec.exists()
    ]
    renumbered = {theirs: ours for ours, theirs in enumerate(numbers)}
    for theirs, ours in renumbered.items():
        folder.trial(ours).root.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.trial(theirs).spec, folder.trial(ours).spec)
    imported = [
        replace(event, trial=renumbered[event.trial], source=f"{source.root.name}/{event.trial}", held_s=None)
        for event in events
        if event.trial in renumbered
    ]
    if imported:
        recorder.record_import(imported)
    best = recorder.table.best()
    if best is not None:
        _copy_weights(source.trial(numbers[best.number]).best, folder.trial(best.number).best)
    return len(numbers)


def _read(source: ExperimentFolder) -> list[Event]:
    """The other experiment's events. It does not run, so no driver repairs its journal, and this one must not."""
    journal = open_storage(str(source.root)).journal
    if not journal.exists():
        reason = f"no journal in {source.root}: was the experiment to continue from moved or deleted?"
        raise SourceMissingError(f"the trials to begin with cannot be read: {reason}")
    try:
        return list(decode_all(journal.entries()))
    except JournalDamagedError as error:
        raise SourceMissingError(f"the trials to begin with cannot be read: {error}") from error


def _copy_weights(weights: Path, copy: Path) -> None:
    """Without them the trial is trained again if it wins."""
    part = copy.with_suffix(".part")
    try:
        shutil.copyfile(weights, part)
        part.replace(copy)
    except OSError as error:
        log.warning("the weights of the best trial are not imported: %s", error)
        part.unlink(missing_ok=True)
