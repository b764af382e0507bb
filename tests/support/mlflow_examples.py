"""Searches that never trained, recorded by the real recorder and sent to MLflow by the real tracker."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random
from typing import Any

from search_spaces.domains import Choice, Domain, Interval
from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Phase, TrialState, Winner
from search_spaces.sampling import resolve
from search_spaces.storage.folder import FolderStorage
from tests.support.workers import launch_config
from workers.state.recorder import Recorder
from workers.tracking.mlflow_ids import MlflowIds
from workers.tracking.summary import summarize
from workers.tracking.tracker import Tracker

BEGAN = 1_764_400_000.0  # when all examples begin, in Unix seconds
METRICS_OF_LOSS = {"train_loss": 0.9, "validation_loss": 1.0}


def record_search(folder: Path, spec: ExperimentSpec, trials: int, seed: int = 0) -> Recorder:
    """A search in which the learning rate decides and about two thirds of the trials are stopped early."""
    random = Random(seed)
    seconds = [0.0]
    recorder = Recorder(FolderStorage(folder).journal, spec.objective, 1, lambda: BEGAN, lambda: seconds[0])
    for number in range(trials):
        sample = _sample(spec, random)
        trial = spec.bind(sample, number)
        parameters = spec.parameters(trial)
        recorder.record_suggestion(number, sample, parameters)
        best = 0.98 - 0.1 * abs(math.log10(float(parameters["optimizer.lr"])) + 2) - 0.05 * random.random()
        epochs = spec.max_epochs if random.random() < 1 / 3 else random.choice((1, 3))
        for epoch in range(1, epochs + 1):
            seconds[0] += 1.0
            accuracy = best * (1 - math.exp(-epoch / 1.5)) + 0.01 * random.gauss(0, 1)
            metrics = {
                "validation_accuracy": accuracy,
                "train_accuracy": min(1.0, accuracy + 0.02),
                "lr": float(parameters["optimizer.lr"]),
                "epoch_seconds": 1.0,
                **{name: scale * (1.05 - accuracy) for name, scale in METRICS_OF_LOSS.items()},
            }
            recorder.record_epoch(number, epoch, metrics, _outcome(spec, epoch, epochs))
    return recorder


def send_search(folder: Path, spec: ExperimentSpec, trials: int, uri: str, experiment_id: str) -> MlflowIds:
    """Record a search in a folder and send it to MLflow, to the end."""
    recorder = record_search(folder, spec, trials, seed=len(experiment_id) + trials)
    launch = launch_config(folder, experiment_id=experiment_id, mlflow_tracking_uri=uri)
    tracker = Tracker(launch, spec, FolderStorage(folder))
    assert tracker.deliver()
    tracker.finish()
    table, ids = recorder.table, tracker.ids()
    best = table.best()
    assert best is not None
    assert best.best_value is not None
    winner = Winner(trial=best.number, value=best.best_value, test_accuracy=best.best_value - 0.01, test_loss=0.1)
    tracker.end_parent_run(summarize(Phase.COMPLETED, "", table, ids.runs, winner, spec.objective.metric))
    tracker.close()
    recorder.close()
    return ids


def _outcome(spec: ExperimentSpec, epoch: int, epochs: int) -> tuple[TrialState, str] | None:
    if epoch < epochs:
        return None
    if epoch == spec.max_epochs:
        return TrialState.COMPLETED, f"all {epochs} epochs done"
    return TrialState.EARLY_STOPPED, f"rung at epoch {epoch}: below the cutoff for the best 1/3 of the earlier trials"


def _sample(spec: ExperimentSpec, random: Random) -> dict[str, float]:
    drawn: dict[str, float] = {}

    def draw(path: str, domain: Domain) -> float:
        drawn[path] = _value(domain, random)
        return drawn[path]

    resolve(spec.search_space, draw)
    return drawn


def _value(domain: Any, random: Random) -> float:
    if isinstance(domain, Choice):
        return random.randrange(len(domain.choice))
    assert isinstance(domain, Interval)
    if domain.step is not None:
        return domain.low + domain.step * random.randrange(int((domain.high - domain.low) / domain.step) + 1)
    if domain.log:
        return math.exp(random.uniform(math.log(domain.low), math.log(domain.high)))
    return random.uniform(domain.low, domain.high)
