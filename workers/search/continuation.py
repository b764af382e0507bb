"""Continuation: the trials of another experiment, with which this one begins.

Owns what is imported and how: the journal entries of the trials that have a result, their specs, and the weights of
the best one. They are numbered from 0 in this experiment; nothing of the other experiment is changed. It must not know
Ray, MLflow or the service.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from search_spaces.layout import ExperimentFolder
from search_spaces.protocol import IMPORTED_STATES
from workers.search.stop_conditions import AttemptError
from workers.state import journal
from workers.state.journal import Entry
from workers.state.recorder import Recorder

log = logging.getLogger("rung.continuation")

IMPORTED_EVENTS = frozenset({"suggested", "epoch", "ended"})


class SourceMissingError(AttemptError):
    """The trials to begin with cannot be read. The message says where they should be."""

    blocked = True


def import_trials(source: ExperimentFolder, folder: ExperimentFolder, recorder: Recorder) -> int:
    """Fill `recorder`, which has no trials, with the results of `source`. Returns the number of imported trials.

    `folder` is this experiment's. A crash on the way leaves `recorder` empty. Raises SourceMissingError if the journal
    of `source` is missing or both of its files are damaged, and OSError.
    """
    entries = [entry for entry in _read(source) if entry["event"] in IMPORTED_EVENTS]
    state = {entry["trial"]: entry["state"] for entry in entries if "state" in entry}
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
        _imported(entry, renumbered[entry["trial"]], source.root.name)
        for entry in entries
        if entry["trial"] in renumbered
    ]
    if imported:
        recorder.record_import(imported)
    best = recorder.table.best()
    if best is not None:
        _copy_weights(source.trial(numbers[best.number]).best, folder.trial(best.number).best)
    return len(numbers)


def _read(source: ExperimentFolder) -> list[Entry]:
    """The other experiment's entries. It does not run, so no driver heals its journal, and this one must not."""
    reason = f"no journal in {source.root}: was the experiment to continue from moved or deleted?"
    for file in (source.journal, source.journal_copy):
        try:
            if file.exists():
                return list(journal.entries(file))
        except journal.JournalDamagedError as error:
            reason = str(error)
    raise SourceMissingError(f"the trials to begin with cannot be read: {reason}")


def _imported(entry: Entry, number: int, source: str) -> Entry:
    """The entry as one of this experiment, which held no slot for it."""
    kept = {key: value for key, value in entry.items() if key != "held_s"}
    return kept | {"trial": number, "source": f"{source}/{entry['trial']}"}


def _copy_weights(weights: Path, copy: Path) -> None:
    """Without them the trial is trained again if it wins."""
    part = copy.with_suffix(".part")
    try:
        shutil.copyfile(weights, part)
        part.replace(copy)
    except OSError as error:
        log.warning("the weights of the best trial are not imported: %s", error)
        part.unlink(missing_ok=True)
