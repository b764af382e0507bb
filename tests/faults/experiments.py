"""Experiments for faults to meet: small searches on digits whose epochs last long enough to be hit."""

from __future__ import annotations

from typing import Any

from service.contract.schemas import ExperimentView
from tests.faults.stand import Stand

TRIALS = 6
OPTIMIZER = {"kind": "adam", "lr": {"loguniform": [1e-4, 3e-2]}}
SPACE = {"model": {"kind": "cnn", "width": 16, "depth": 2}, "batch_size": 16, "optimizer": OPTIMIZER}


def parallel(name: str, *, trials: int = TRIALS, **changes: Any) -> dict[str, Any]:
    """Two trials at once: which of them is ahead is nobody's to say."""
    return {
        "name": name,
        "project": "faults",
        "search_space": SPACE,
        "searcher": {"kind": "random", "num_samples": trials},
        "max_epochs": 4,
        "early_stopping": {"kind": "asha", "grace_period": 1, "reduction_factor": 2},
        "resources": {"max_concurrent_trials": 2},
        "seed": 3,
    } | changes


def serial(name: str, **changes: Any) -> dict[str, Any]:
    """One trial at a time: the schedule of events is fixed, and with it every figure."""
    return parallel(name, **{"resources": {"max_concurrent_trials": 1}} | changes)


def ended(stand: Stand, experiment_id: str, timeout_s: float = 400.0) -> ExperimentView:
    """The experiment once it has ended, or is paused and waits for a person."""

    def view() -> ExperimentView | None:
        now = stand.rung.get(experiment_id)
        return now if now.state in {"COMPLETED", "CANCELED", "ERROR", "PAUSED"} else None

    return stand.until(view, f"the end of experiment {experiment_id}", timeout_s)


def after_epochs(stand: Stand, experiment_id: str, epochs: int, timeout_s: float = 240.0) -> None:
    """Wait until the service knows of so many epochs of an experiment that still runs."""

    def told() -> bool:
        assert stand.rung.get(experiment_id).state not in {"COMPLETED", "ERROR", "PAUSED"}
        return sum(trial.epoch for trial in stand.rung.trials(experiment_id)) >= epochs

    stand.until(told, f"{epochs} epochs of experiment {experiment_id}", timeout_s)


def driver_of(stand: Stand, experiment_id: str) -> int:
    """The newest driver's process; the shell of its job supervisor ends with it."""

    def found() -> list[int]:
        attempt = stand.rung.get(experiment_id).attempt
        return stand.pids("workers.driver", f"{stand.files(experiment_id)} {attempt}")

    return stand.until(found, f"the driver of {experiment_id}")[0]
