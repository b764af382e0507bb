"""Evidence: what the journal and the files of an experiment tell of its trials, read once.

Owns the limits of what is read, so that the time is bounded. It must not know what is concluded from it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePath
from typing import TypeVar

from pydantic import BaseModel

from search_spaces.datasets.report import DataReport
from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import NAMES
from search_spaces.protocol import TrialState, Winner
from search_spaces.replicates import is_replicate
from search_spaces.scores import Scores
from search_spaces.storage.base import ArtifactStore, ExperimentStorage, read_document
from workers.state.events import EpochFinished, decode_all
from workers.state.fresh_seeds import Won
from workers.state.fresh_seeds import winner as winner_of
from workers.state.outcomes import ValidationOutcomes, load_outcomes
from workers.state.trial_table import Trial, TrialTable

MOST_TRIALS = 1000  # whose curves and outcomes are read: the best ones
MOST_OUTCOMES = 10**7  # trials x images, which take 80 MB
OUTCOMES_S = 15.0  # for which they are read: a storage may be slow
MOST_EPOCHS = 10**5  # of all those trials together, which take 100 MB

log = logging.getLogger(__name__)

Document = TypeVar("Document", bound=BaseModel)


@dataclass(frozen=True)
class Evidence:
    """`trials` have a value: first the winner, then the others, the best first. `won` is the winner with the run whose
    weights are registered, `best` the number of the best trial of the search, which fresh seeds may have beaten.
    `every` are all trials of the search by number, `replicates` the runs of the finalists with fresh seeds.

    `metrics` has those of each epoch, and `outcomes` which validation images were right, of the best MOST_TRIALS trials
    and the winner's run as far as they are known. `winner` has that run's result on the test set, `scores` how well it
    recognizes each class, `data` the sizes of the splits.
    """

    spec: ExperimentSpec
    won: Won
    best: int
    trials: list[Trial]
    every: dict[int, Trial]
    replicates: dict[int, Trial]
    metrics: dict[int, list[Mapping[str, float]]]
    outcomes: dict[int, ValidationOutcomes]
    winner: Winner | None
    data: DataReport | None
    scores: Scores | None = None


def gather(spec: ExperimentSpec, storage: ExperimentStorage) -> Evidence:
    """Raises JournalDamagedError, OSError, and ValueError where no trial has a value."""
    table = TrialTable(spec.objective)
    for event in decode_all(storage.journal.entries()):
        table.apply(event)
    best, won = table.best(), winner_of(spec, table)
    if best is None or won is None:
        raise ValueError("no trial has a value")
    sign = spec.objective.sign
    rated = [trial for trial in table.searched() if trial.best_value is not None]
    replicates = {number: trial for number, trial in table.trials.items() if is_replicate(number)}
    rated.sort(key=lambda trial: (trial is not won.trial, -sign * (trial.best_value or 0.0), trial.number))
    metrics: dict[int, list[Mapping[str, float]]] = {trial.number: [] for trial in (won.run, *_examined(rated))}
    for event in decode_all(storage.journal.entries()):
        if isinstance(event, EpochFinished) and event.trial in metrics:
            metrics[event.trial].append(event.metrics)
    completed = [trial for trial in replicates.values() if trial.state is TrialState.COMPLETED]
    outcomes = _outcomes(storage.artifacts, [*completed, *rated[:MOST_TRIALS]])
    winner = table.winner if table.winner and table.winner.trial == won.run.number else None
    every = {trial.number: trial for trial in table.searched()}
    scores = _document(storage.artifacts, NAMES.scores, Scores)
    if winner is None or (scores and scores.trial != winner.trial):  # those of an earlier end of the search
        scores = None
    data = _document(storage.artifacts, NAMES.data_report, DataReport)
    return Evidence(spec, won, best.number, rated, every, replicates, metrics, outcomes, winner, data, scores)


def _examined(rated: Iterable[Trial]) -> Iterator[Trial]:
    """The trials whose curves are read: of the best ones, as many as the limits allow."""
    epochs = 0
    for trial in islice(rated, MOST_TRIALS):
        yield trial
        epochs += trial.epoch
        if epochs >= MOST_EPOCHS:
            return


def _outcomes(artifacts: ArtifactStore, trials: Iterable[Trial]) -> dict[int, ValidationOutcomes]:
    found: dict[int, ValidationOutcomes] = {}
    images, until = 0, time.monotonic() + OUTCOMES_S
    for trial in trials:
        if images >= MOST_OUTCOMES or time.monotonic() >= until:
            break
        if outcomes := load_outcomes(artifacts, NAMES.trial(trial.number), trial.best_epoch or 0):
            found[trial.number] = outcomes
            images += len(outcomes.right)
    return found


def _document(artifacts: ArtifactStore, name: PurePath, model: type[Document]) -> Document | None:
    """A document that the insight can do without: None where there is none, or none that can be read."""
    try:
        return model.model_validate_json(read_document(artifacts, name))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("%s cannot be used: %r", name, error)
        return None
