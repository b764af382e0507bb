"""Experiments of the fault table: small searches on digits whose epochs last long enough for a fault to hit them."""

from __future__ import annotations

from typing import Any

from service.contract.schemas import ExperimentView
from service.contract.states import INACTIVE
from tests.faults.place import Place
from tests.faults.stand import Stand

TRIALS = 6
#: A stopped service or Ray takes a minute to come back, and several on a busy machine.
PATIENCE_S = 720.0
LOOK_S = 0.5  # each look is two requests to the service
OPTIMIZER = {"kind": "adam", "lr": {"loguniform": [1e-4, 3e-2]}}
SPACE = {"model": {"kind": "cnn", "width": 16, "depth": 2}, "batch_size": 16, "optimizer": OPTIMIZER}


def parallel(name: str, *, trials: int = TRIALS, **changes: Any) -> dict[str, Any]:
    """Two trials at a time: the order of their epochs is not deterministic."""
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
    """One trial at a time: the order of events is fixed, and so are all results."""
    return parallel(name, **{"resources": {"max_concurrent_trials": 1}} | changes)


def wait_for_end(stand: Place, experiment_id: str, patience_s: float = PATIENCE_S) -> ExperimentView:
    """Waits until the experiment has ended or is paused, and returns it.

    Fails after `patience_s` without a new epoch. A busy machine needs longer, and is no fault.
    """
    epochs = -1
    while True:

        def progress(before: int = epochs) -> tuple[ExperimentView, int] | None:
            view, now = stand.rung.get(experiment_id), _epochs(stand, experiment_id)
            return (view, now) if view.state in INACTIVE or now != before else None

        what = f"an epoch after {epochs} of experiment {experiment_id}, or its end"
        view, epochs = stand.wait_until(progress, what, patience_s, LOOK_S)
        if view.state in INACTIVE:
            return view


def wait_for_epochs(stand: Place, experiment_id: str, epochs: int, timeout_s: float = PATIENCE_S) -> None:
    """Waits until the service knows at least `epochs` epochs of an experiment that still runs."""

    def reported() -> bool:
        assert stand.rung.get(experiment_id).state not in {"COMPLETED", "ERROR", "PAUSED"}
        return _epochs(stand, experiment_id) >= epochs

    stand.wait_until(reported, f"{epochs} epochs of experiment {experiment_id}", timeout_s)


def _epochs(stand: Place, experiment_id: str) -> int:
    return sum(trial.epoch for trial in stand.rung.trials(experiment_id))


def driver_of(stand: Stand, experiment_id: str) -> int:
    """The process id of the newest driver; the shell that Ray started it in ends with it."""

    def found() -> list[int]:
        attempt = stand.rung.get(experiment_id).attempt
        return stand.pids("workers.driver", f"{stand.address(experiment_id)} {attempt}")

    return stand.wait_until(found, f"the driver of {experiment_id}")[0]
