"""Pause, change, resume, continue and cancel on real processes. With -s, it prints how fast a slot is freed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from search_spaces.layout import ExperimentFolder
from search_spaces.protocol import TrialState
from service.client import Client
from service.contract.schemas import ExperimentView, TrialView
from tests.support.mlflow_runs import assert_every_point_once

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

SMALL = {"kind": "cnn", "width": 8, "depth": 2}
#: On one core, an epoch of this model takes minutes and a batch one or two seconds.
HUGE = {"kind": "resnet", "width": 128, "depth": 56}
EPOCHS = 15
FREE_SLOT_S = 60.0


def spec(name: str, trials: int, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "project": "e2e-control",
        "search_space": {"model": SMALL, "optimizer": {"kind": "adam", "lr": {"loguniform": [1e-4, 3e-2]}}},
        "searcher": {"kind": "random", "num_samples": trials},
        "max_epochs": EPOCHS,
        "early_stopping": "none",
        "seed": 5,
    } | changes


def until_inactive(client: Client, experiment_id: str) -> ExperimentView:
    return client.wait(experiment_id, interval_s=0.1)


def trials_of(client: Client, experiment_id: str) -> list[TrialView]:
    return sorted(client.trials(experiment_id), key=lambda trial: trial.trial)


def assert_complete(client: Client, mlflow: MlflowClient, experiment_id: str, trials: int) -> None:
    """Every trial trained all epochs, and MLflow holds each point once."""
    found = trials_of(client, experiment_id)
    assert [(trial.state, trial.epoch) for trial in found] == [("COMPLETED", EPOCHS)] * trials
    assert [trial.restarts for trial in found] == [0] * trials
    for trial in found:
        assert_every_point_once(mlflow, trial)


def test_paused_changed_resumed_and_continued(client: Client, mlflow: MlflowClient) -> None:
    submitted = client.submit(spec("controlled", trials=2))
    next(view for view in client.watch(submitted.id, 0.1) if view.best)
    client.pause(submitted.id)
    paused = until_inactive(client, submitted.id)
    assert (paused.state, paused.slots) == ("PAUSED", 0)
    before = trials_of(client, paused.id)
    # The pause may come before the process of a trial is up: such a trial has not begun.
    assert {(trial.state, trial.epoch > 0) for trial in before} <= {
        ("PAUSED", True),
        ("PAUSED", False),
        ("PENDING", False),
    }
    assert any(trial.state == "PAUSED" and 0 < trial.epoch < EPOCHS for trial in before)

    client.change(paused.id, num_samples=3, max_concurrent_trials=1)
    client.resume(paused.id)
    most = max(view.trials.get(TrialState.RUNNING, 0) for view in client.watch(paused.id, 0.1))
    assert most == 1
    assert until_inactive(client, paused.id).state == "COMPLETED"
    assert_complete(client, mlflow, paused.id, 3)

    continuation = client.continue_from(paused.id, {"name": "continued", "searcher": {"num_samples": 1}})
    assert until_inactive(client, continuation.id).state == "COMPLETED"
    assert_complete(client, mlflow, continuation.id, 4)
    imported = [trial.parameters for trial in trials_of(client, paused.id)]
    assert [trial.parameters for trial in trials_of(client, continuation.id)][:3] == imported
    assert_complete(client, mlflow, paused.id, 3)


def test_a_canceled_trial_frees_its_slot_during_a_long_epoch(client: Client, storage: Path) -> None:
    submitted = client.submit(
        spec(
            "long-epoch",
            trials=2,
            searcher="grid",
            search_space={"model": {"choice": [HUGE, SMALL]}, "batch_size": 16},
            max_epochs=1,
            resources={"max_concurrent_trials": 1},
        )
    )
    logs = [ExperimentFolder(storage / submitted.id).trial(number).log for number in (0, 1)]
    _until(lambda: logs[0].exists() and "begins" in logs[0].read_text(), 120.0)
    client.cancel_trial(submitted.id, 0)
    canceled = time.monotonic()
    _until(lambda: logs[1].exists() and "begins" in logs[1].read_text(), FREE_SLOT_S)
    print(f"\nanother trial got the slot {time.monotonic() - canceled:.1f} s after the cancel")
    assert until_inactive(client, submitted.id).state == "COMPLETED"
    first, second = trials_of(client, submitted.id)
    assert (first.state, first.epoch, first.stop_reason) == ("CANCELED", 0, "canceled on request")
    assert (second.state, second.epoch) == ("COMPLETED", 1)


def _until(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"timed out after {timeout_s:g} s"
        time.sleep(0.05)
