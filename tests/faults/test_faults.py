"""The rows of the fault table that `make test` runs. `docs/reliability.md` has the whole table."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.faults.experiments import TRIALS, driver_of, serial, wait_for_end, wait_for_epochs
from tests.faults.invariants import assert_nothing_lost, entries, finished
from tests.faults.stand import Stand

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.mark.faults
def test_a_loss_that_is_not_finite(stand: Stand, undisturbed: Callable[..., str]) -> None:
    # Each step multiplies the weights by 1 - 100: they overflow for any gradient.
    exploding = {"kind": "sgd", "lr": 100.0, "weight_decay": 1.0, "momentum": 0.0}
    optimizer = {"choice": [exploding, {"kind": "adam", "lr": 1e-3}, exploding | {"lr": 90.0}]}
    space = {"model": {"kind": "cnn", "width": 8, "depth": 2}, "normalization": "none", "optimizer": optimizer}
    submitted = stand.rung.submit(serial("not-finite", searcher="grid", search_space=space))
    undisturbed()  # meanwhile, because this row kills nothing
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, 3, trained_again=0)
    trials = list(stand.rung.trials(view.id))
    assert [trial.state for trial in trials] == ["DIVERGED", "COMPLETED", "DIVERGED"]
    assert "not finite" in trials[0].stop_reason
    assert view.best is not None
    assert view.best.trial == 1


def test_kill_of_the_service(stand: Stand, undisturbed: Callable[..., str]) -> None:
    like = undisturbed()
    submitted = stand.rung.submit(serial("service-killed"))
    wait_for_epochs(stand, submitted.id, 2)
    before = finished(stand, submitted.id)
    stand.kill("service")
    written = len(entries(stand, submitted.id))
    stand.wait_until(lambda: len(entries(stand, submitted.id)) >= written + 2, "epochs without a service")
    stand.start("service")
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, like=like, before=before, trained_again=0)
    assert view.attempt == 1, "a driver continues without the service"


def test_kill_of_the_driver(stand: Stand, undisturbed: Callable[..., str]) -> None:
    like = undisturbed()
    submitted = stand.rung.submit(serial("driver-killed"))
    wait_for_epochs(stand, submitted.id, 6)
    before = finished(stand, submitted.id)
    os.kill(driver_of(stand, submitted.id), signal.SIGKILL)
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, like=like, before=before, trained_again=1)
    assert view.attempt == 2


@pytest.mark.faults
def test_kill_of_a_trials_process(stand: Stand, undisturbed: Callable[..., str]) -> None:
    like = undisturbed()
    submitted = stand.rung.submit(serial("trial-process-killed"))
    wait_for_epochs(stand, submitted.id, 2)
    before = finished(stand, submitted.id)
    (process,) = stand.pids("ray::TrialWorker")
    os.kill(process, signal.SIGKILL)
    wait_for_end(stand, submitted.id)
    view = assert_nothing_lost(stand, submitted.id, TRIALS, like=like, before=before, trained_again=1)
    assert view.attempt == 1, "the same driver retries the trial"
    restarts = {trial.trial: trial.restarts for trial in stand.rung.trials(view.id) if trial.restarts}
    assert list(restarts.values()) == [1]


@pytest.mark.faults
def test_a_truncated_checkpoint(stand: Stand, undisturbed: Callable[..., str]) -> None:
    like = undisturbed()
    submitted = stand.rung.submit(serial("checkpoint-truncated"))
    driver = driver_of(stand, submitted.id)
    trials = stand.files(submitted.id) / "trials"
    stand.wait_until(lambda: list(trials.glob("*/previous.pt")), "a trial with two checkpoints")
    os.kill(driver, signal.SIGKILL)
    stand.wait_until(lambda: not stand.pids("ray::TrialWorker"), "the trial processes of the killed driver are gone")
    damaged = [previous.with_name("last.pt") for previous in trials.glob("*/previous.pt")]
    for checkpoint in damaged:
        os.truncate(checkpoint, checkpoint.stat().st_size // 2)
    assert damaged
    wait_for_end(stand, submitted.id)
    assert_nothing_lost(stand, submitted.id, TRIALS, like=like, trained_again=2)
    logs = [checkpoint.with_name("trial.log").read_text() for checkpoint in damaged]
    assert all("previous.pt" in log for log in logs)


@pytest.mark.faults
@pytest.mark.parametrize("damage", ["tail", "middle"])
def test_a_damaged_journal(stand: Stand, undisturbed: Callable[..., str], damage: str) -> None:
    like = undisturbed()
    submitted = stand.rung.submit(serial(f"journal-{damage}"))
    wait_for_epochs(stand, submitted.id, 5)
    before = finished(stand, submitted.id)
    os.kill(driver_of(stand, submitted.id), signal.SIGKILL)
    path = stand.files(submitted.id) / "journal.jsonl"
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    if damage == "tail":
        path.write_bytes(content[: -len(lines[-1]) - len(lines[-2]) // 2])
    else:
        middle = next(number for number, line in enumerate(lines) if b'"epoch":2' in line)
        lines[middle] = b"\0" * len(lines[middle])
        path.write_bytes(b"".join(lines))
    wait_for_end(stand, submitted.id)
    assert_nothing_lost(stand, submitted.id, TRIALS, like=like, before=before, trained_again=1)
