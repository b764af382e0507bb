"""The time from the kill of a driver to the next epoch of its successor, and what an experiment costs besides training.

Run: make bench, or
python -m pytest tests/benchmarks/test_recovery.py --override-ini addopts=--import-mode=importlib -s --timeout 1800

The service has its default times. PostgreSQL, MLflow, Ray and the service run on this machine.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from search_spaces.objective import Objective
from search_spaces.protocol import DIAGNOSTICS, METRICS, LaunchConfig
from search_spaces.storage.folder import FolderStorage
from service.settings import Settings
from tests.faults.experiments import driver_of, serial, wait_for_epochs
from tests.faults.stand import SHORT_TIMES, Stand, running_stand
from workers.fence import Fence
from workers.heartbeat import HeartbeatThread
from workers.state.recorder import Recorder
from workers.tracking.mlflow_ids import MlflowIds

REPEATS = 3
MEASURED_S = 60.0
RUNNING, BEATS, WARM_UP = 8, 200, 5
#: Runs until it is canceled: epochs of about half a second.
ENDLESS = {"max_epochs": 5000, "early_stopping": "none"}


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    fields = {
        name.removeprefix("RUNG_"): Settings.model_fields[name.removeprefix("RUNG_").lower()] for name in SHORT_TIMES
    }
    with running_stand(**{name: str(field.default) for name, field in fields.items()}) as stand:
        yield stand


def test_recovery_of_a_killed_driver(stand: Stand) -> None:
    took = []
    for repeat in range(REPEATS):
        submitted = stand.rung.submit(serial(f"recovery-{repeat}", **ENDLESS))
        wait_for_epochs(stand, submitted.id, 3)
        driver = driver_of(stand, submitted.id)
        known = stand.rung.trial(submitted.id, 0).epoch
        os.kill(driver, signal.SIGKILL)
        killed = time.monotonic()

        def next_epoch(experiment_id: str = submitted.id, known: int = known) -> bool:
            view = stand.rung.get(experiment_id)
            return view.attempt == 2 and stand.rung.trial(experiment_id, 0).epoch > known + 1

        stand.wait_until(next_epoch, "an epoch of the second driver", 300)
        took.append(time.monotonic() - killed)
        stand.rung.cancel(submitted.id)
        stand.wait_until(lambda one=submitted.id: stand.rung.get(one).state == "CANCELED", "the experiment is canceled")
    print(f"\nkill -9 of a driver to the next epoch over REST: {', '.join(f'{s:.1f}' for s in took)} s")
    assert statistics.median(took) < 30


def test_cost_of_a_running_experiment(stand: Stand, tmp_path: Path) -> None:
    """The CPU time that the service uses more than when idle, plus that of the driver's heartbeat."""
    idle = _cores(stand.pid("service"))
    submitted = stand.rung.submit(serial("cost", **ENDLESS))
    wait_for_epochs(stand, submitted.id, 3)
    busy = _cores(stand.pid("service"))
    launch = (stand.storages[0] / submitted.id / "launch-a1.json").read_text()
    heartbeat = _heartbeat_cores(LaunchConfig.model_validate_json(launch), tmp_path)
    stand.rung.cancel(submitted.id)
    print(
        f"\nthe service used {idle:.2%} of a core when idle and {busy:.2%} with one experiment ({busy - idle:.2%} more)"
    )
    print(
        f"the driver's heartbeat used {heartbeat:.2%} of a core, with {RUNNING} trials that changed in each heartbeat"
    )
    assert busy - idle + heartbeat < 0.01


def _heartbeat_cores(launch: LaunchConfig, folder: Path) -> float:
    """CPU seconds per second of a thread that sends heartbeats as a driver does, measured by the thread's CPU clock.

    Each heartbeat goes to the same service with the driver's token, and reports a new epoch of every running trial.
    """
    recorder = Recorder(FolderStorage(folder).journal, Objective())
    for number in range(RUNNING):
        recorder.record_suggestion(
            number, {"lr": 0.1}, {"optimizer.kind": "sgd", "optimizer.lr": 0.1, "batch_size": 64}
        )
        recorder.mark_started(number)
    heartbeat = HeartbeatThread(launch, Fence())
    heartbeat.report_trials(recorder, lambda: MlflowIds("1", "parent", {}))
    used_s = 0.0
    for epoch in range(1, BEATS + WARM_UP + 1):
        for number in range(RUNNING):
            recorder.record_epoch(number, epoch, dict.fromkeys(METRICS + DIAGNOSTICS, 0.123456789))
        began_s = time.thread_time()
        assert heartbeat.send(), "the service did not accept the heartbeat"
        used_s += time.thread_time() - began_s if epoch > WARM_UP else 0.0
    heartbeat.close()
    recorder.close()
    return used_s / BEATS / launch.heartbeat_s


def _cores(pid: int) -> float:
    """CPU seconds per second of a process, over a minute without requests from this benchmark."""
    used, began = _cpu_s(pid), time.monotonic()
    time.sleep(MEASURED_S)
    return (_cpu_s(pid) - used) / (time.monotonic() - began)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
