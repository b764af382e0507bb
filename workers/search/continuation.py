"""Fork: the trials of another experiment, with which this one begins.

Owns what is taken over and how: the journal's entries of the trials that came to a result, what they ran,
and the best one's weights. They are numbered anew from 0; nothing of the other experiment is changed. It
must not know Ray, MLflow or the service.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from search_spaces.protocol import IMPORTED_STATES, trial_folder
from workers.state import journal
from workers.state.checkpoints import BEST
from workers.state.journal import Entry
from workers.state.recorder import Recorder
from workers.trial.worker import SPEC

log = logging.getLogger("rung.continuation")

IMPORTED_EVENTS = frozenset({"suggested", "epoch", "ended"})


class SourceMissingError(Exception):
    """There is nothing to begin with. The message says where it was looked for, and is meant for a person."""


def import_trials(source: Path, journal_name: str, trials: Path, recorder: Recorder) -> int:
    """Begin `recorder`, which is empty, with the results in the folder `source`; gives how many trials they are.

    `trials` is the folder of the trials' folders. A crash on the way leaves `recorder` empty. Raises
    SourceMissingError where the other's journal is absent or damaged in both of its files, and OSError.
    """
    entries = [entry for entry in _whole(source / journal_name) if entry["event"] in IMPORTED_EVENTS]
    state = {entry["trial"]: entry["state"] for entry in entries if "state" in entry}
    numbers = [
        number
        for number in sorted(number for number, name in state.items() if name in IMPORTED_STATES)
        if (source / "trials" / trial_folder(number) / SPEC).exists()
    ]
    renumbered = {number: place for place, number in enumerate(numbers)}
    for number, place in renumbered.items():
        (trials / trial_folder(place)).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / "trials" / trial_folder(number) / SPEC, trials / trial_folder(place) / SPEC)
    taken = [_of(entry, renumbered[entry["trial"]], source.name) for entry in entries if entry["trial"] in renumbered]
    if taken:
        recorder.record_import(taken)
    best = recorder.table.best()
    if best is not None:
        theirs, ours = trial_folder(numbers[best.number]), trial_folder(best.number)
        _copy_weights(source / "trials" / theirs / BEST, trials / ours / BEST)
    return len(numbers)


def _whole(path: Path) -> list[Entry]:
    """The other's entries. It is not running, so nobody mends its journal, and it is not ours to mend."""
    why = f"no journal in {path.parent}: was the experiment to continue from moved or deleted?"
    for file in (path, journal.copy_of(path)):
        try:
            if file.exists():
                return list(journal.entries(file))
        except journal.JournalDamagedError as damaged:
            why = str(damaged)
    raise SourceMissingError(f"the trials to begin with cannot be read: {why}")


def _of(entry: Entry, number: int, source: str) -> Entry:
    """The entry as one of this experiment: the slot was held in the other's time."""
    kept = {key: value for key, value in entry.items() if key != "held_s"}
    return kept | {"trial": number, "source": f"{source}/{entry['trial']}"}


def _copy_weights(weights: Path, copy: Path) -> None:
    """Without them the finalist trains the trial again."""
    part = copy.with_suffix(".part")
    try:
        shutil.copyfile(weights, part)
        part.replace(copy)
    except OSError as error:
        log.warning("the best trial's weights are not taken over: %s", error)
        part.unlink(missing_ok=True)
