"""How long the insight of the largest search takes, part by part (docs/benchmarks.md)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import NAMES
from search_spaces.protocol import TrialState
from search_spaces.storage.folder import FolderStorage
from tests.support.planted import outcomes
from workers.attempt import INSIGHT_TIMEOUT_S
from workers.insight import report
from workers.insight.evidence import gather
from workers.insight.report import insight_of
from workers.state.events import EpochFinished, Event, TrialEnded, TrialSuggested
from workers.state.outcomes import ValidationOutcomes
from workers.state.recorder import Recorder

TRIALS, IMAGES, EPOCHS = 1000, 10_000, 20
#: Six optimizers with domains of their own: as many branches as are analyzed.
SPACE: dict[str, Any] = {
    "optimizer": {
        "choice": [
            {"kind": kind, "lr": {"loguniform": [0.001, 1.0]}, "weight_decay": {"loguniform": [1e-6, 1e-2]}}
            for kind in ("sgd", "adam", "adamw", "nadam", "radam", "rmsprop")
        ]
    },
    "batch_size": {"choice": [32, 64, 128]},
    "label_smoothing": {"uniform": [0.0, 0.2]},
    "augmentation": {"rotation": {"uniform": [0, 15]}, "translation": {"uniform": [0, 0.1]}},
}


def test_the_insight_of_a_thousand_trials_of_ten_thousand_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ExperimentSpec.model_validate({"name": "large", "search_space": SPACE, "max_epochs": EPOCHS})
    storage = plant(spec, tmp_path)
    taken: dict[str, float] = {}
    for name in ("sureness", "important", "space_findings", "next_spec", "_curves"):
        monkeypatch.setattr(report, name, timed(name, getattr(report, name), taken))
    started = time.perf_counter()
    evidence = timed("gather", gather, taken)(spec, storage)
    made = insight_of(evidence)
    whole = time.perf_counter() - started
    print(f"\n{TRIALS} trials of {IMAGES} images and {EPOCHS} epochs: {whole:.1f} s")
    for name, seconds in taken.items():
        print(f"  {name:<15} {seconds:6.2f} s")
    assert made.notes == []
    assert made.sureness.compared == TRIALS
    assert len(made.importance.groups) == 7
    assert whole < INSIGHT_TIMEOUT_S


def timed(name: str, function: Callable[..., Any], taken: dict[str, float]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            taken[name] = time.perf_counter() - started

    return call


def plant(spec: ExperimentSpec, folder: Path) -> FolderStorage:
    """The journal and the outcomes of a search at random."""
    random, storage = np.random.default_rng(0), FolderStorage(folder)
    accuracies = random.uniform(0.8, 0.95, TRIALS)
    recorder = Recorder(storage.journal, spec.objective)
    for number, accuracy in enumerate(accuracies):
        index = int(random.integers(6))
        sample = {
            "optimizer": index,
            f"optimizer[{index}].lr": float(10 ** random.uniform(-3, 0)),
            f"optimizer[{index}].weight_decay": float(10 ** random.uniform(-6, -2)),
            "batch_size": int(random.integers(3)),
            "label_smoothing": float(random.uniform(0, 0.2)),
            "augmentation.rotation": float(random.uniform(0, 15)),
            "augmentation.translation": float(random.uniform(0, 0.1)),
        }
        parameters: dict[str, str | float] = {"optimizer.kind": "sgd", "scheduler.kind": "cosine"}
        (right,) = outcomes([accuracy], IMAGES, random)
        events: list[Event] = [TrialSuggested(at=1.0, trial=number, sample=sample, parameters=parameters)]
        for epoch in range(1, EPOCHS + 1):
            now = float(right.mean()) - 0.3 * (1 - epoch / EPOCHS)
            metrics = {"validation_accuracy": now, "validation_loss": 1 - now, "generalization_gap": 0.01}
            events.append(EpochFinished(at=1.0 + epoch, trial=number, epoch=epoch, metrics=metrics))
        events.append(TrialEnded(at=99.0, trial=number, state=TrialState.COMPLETED, reason="done"))
        recorder.record_import(events)  # one write for each trial
        kept = ValidationOutcomes(EPOCHS, 0.1, right.tolist())
        storage.artifacts.write(NAMES.trial(number).validation, kept.encode())
    recorder.close()
    return storage
