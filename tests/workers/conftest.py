"""What the tests of the driver share: journals that are closed again, a small experiment, its launch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from search_spaces.experiment import ExperimentSpec, Objective
from search_spaces.protocol import Launch
from workers.progress import Progress

OpenProgress = Callable[..., Progress]


@pytest.fixture
def open_progress(tmp_path: Path) -> Iterator[OpenProgress]:
    """`open_progress(attempt)`: the journal in `tmp_path`, with a clock that ticks once an entry."""
    opened: list[Progress] = []

    def open_(attempt: int = 1, objective: Objective | None = None) -> Progress:
        ticks = itertools.count(1000 * attempt)
        path = tmp_path / "journal.jsonl"
        opened.append(Progress(path, objective or Objective(), attempt, lambda: float(next(ticks))))
        return opened[-1]

    yield open_
    for progress in opened:
        progress.close()


@pytest.fixture
def experiment() -> Callable[..., ExperimentSpec]:
    """`experiment(field=...)`: a spec with a conditional space; what is given replaces what is here."""

    def build(**changes: Any) -> ExperimentSpec:
        document: dict[str, Any] = {
            "name": "tested",
            "project": "driver",
            "search_space": {
                "model": {"kind": "cnn", "width": 8, "depth": 2},
                "optimizer": {
                    "choice": [
                        {"kind": "adam", "lr": {"loguniform": [1e-4, 1e-1]}},
                        {"kind": "sgd", "lr": {"loguniform": [1e-3, 1.0]}, "momentum": {"choice": [0.0, 0.9]}},
                    ]
                },
                "batch_size": {"choice": [64, 128]},
                "label_smoothing": {"quniform": [0.0, 0.3, 0.1]},
            },
            "searcher": {"kind": "random", "num_samples": 12},
            "asha": {"max_t": 4, "grace_period": 1, "reduction_factor": 2},
            "seed": 5,
        }
        return ExperimentSpec.model_validate(document | changes)

    return build


@pytest.fixture
def launch(tmp_path: Path) -> Callable[..., Launch]:
    """`launch(field=...)`: what a driver is told at its start, with addresses where nobody answers."""

    def build(**changes: Any) -> Launch:
        told: dict[str, Any] = {
            "experiment_id": "abc",
            "attempt": 1,
            "attempt_id": "exp-abc-a1",
            "service_url": "http://127.0.0.1:9",
            "token": "secret",
            "slots": 2,
            "mlflow_tracking_uri": "http://127.0.0.1:9",
            "storage": str(tmp_path),
            "data_root": str(tmp_path / "data"),
            "cache_root": str(tmp_path / "cache"),
        }
        return Launch.model_validate(told | changes)

    return build
