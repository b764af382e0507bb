"""Slots on a real Ray: a search yields the slots that it loses, and resumes its trials when it gets them back."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import ray

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Directives, ErrorKind, LaunchConfig
from search_spaces.storage.folder import FolderStorage
from workers.failures.classification import Failure
from workers.fence import Fence
from workers.nodes import Nodes
from workers.ray_patches import startup
from workers.search.checkpoint_keeper import CheckpointKeeper
from workers.search.policy import SearchPolicy
from workers.search.tune_callbacks import TuneCallback
from workers.search.tune_run import run_trials
from workers.search.verdicts import Verdicts
from workers.state.recorder import Recorder
from workers.state.trial_table import TrialTable

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TIMEOUT_S = 60
SPEC = {
    "name": "shrinking",
    "search_space": {
        "model": {"kind": "cnn", "width": 8, "depth": 2},
        "batch_size": 64,
        "label_smoothing": {"uniform": [0.0, 0.1]},
    },
    "searcher": {"kind": "random", "num_samples": 50},
    "max_epochs": 5000,
    "early_stopping": "none",
    "resources": {"gpus_per_trial": 0},
}


@pytest.mark.usefixtures("for_local_ray")
def test_slots_are_free_within_an_epoch_and_trials_resume_later(tmp_path: Path) -> None:
    """Runs in a separate process, because the startup patches Tune, on a Ray of its own with two cores."""
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-5000:]
    both, one, none, again, crowded, withdrawn, elsewhere = json.loads(done.stdout.splitlines()[-1])
    assert (both["free"], both["states"]) == (0, ["RUNNING", "RUNNING"])
    assert (one["free"], sorted(one["states"])) == (1, ["PAUSED", "RUNNING"])
    assert one["more_epochs"][one["states"].index("PAUSED")] <= 1
    assert (none["free"], none["states"]) == (2, ["PAUSED", "PAUSED"])
    assert max(none["more_epochs"]) <= 1
    assert (again["free"], again["states"]) == (0, ["RUNNING", "RUNNING"]), (
        "another trial was started before the paused ones"
    )
    assert (crowded["free"], len(crowded["states"])) == (0, 4)
    assert len(withdrawn["waiting"]) == 2
    for number in range(4):
        waited = number in withdrawn["waiting"]
        assert elsewhere["states"][number] == ("RUNNING" if waited else "CANCELED")
        assert not waited or elsewhere["more_epochs"][number], (
            "processes of ended trials kept the slots for trials that had been withdrawn"
        )


class GrantedSlots:
    """The directives that Tune's thread reads. Epochs are counted from the moment when it first reads new ones.

    Counted from the moment when they change, there would be one more: the epoch on whose result Tune had decided, but
    which it had not recorded yet.
    """

    def __init__(self, table: TrialTable) -> None:
        self._table = table
        self._wanted = self._read = Directives(slots=2)
        self._before: dict[int, int] = {}

    def __call__(self) -> Directives:
        if self._read is not self._wanted:
            self._before, self._read = self._epochs(), self._wanted
        return self._read

    def change(self, directives: Directives) -> None:
        self._wanted = directives

    def are_read(self) -> bool:
        return self._read is self._wanted

    def more_epochs(self) -> list[int]:
        """What each trial has reported since then."""
        return [epoch - self._before.get(number, 0) for number, epoch in self._epochs().items()]

    def _epochs(self) -> dict[int, int]:
        return {trial.number: trial.epoch for trial in list(self._table.trials.values())}


def main(folder: Path) -> list[dict[str, Any]]:
    """Search with two slots, one, none and again two, then four of which Ray has two, and return what was observed.

    Then a node is excluded, and the slots and the trials on the other one are withdrawn: those that waited are placed
    by another request than before.
    """
    launch = LaunchConfig(
        experiment_id="x", attempt=1, attempt_id="exp-x-a1", service_url="http://nowhere", token="t", slots=2,
        mlflow_tracking_uri="http://nowhere", storage=str(folder), data_root=str(folder), cache_root=str(folder),
    )  # fmt: skip
    spec = ExperimentSpec.model_validate(SPEC)
    startup.prepare(launch.slots)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    storage = FolderStorage(folder)
    recorder = Recorder(storage.journal, spec.objective)
    nodes = Nodes(launch)
    granted, seen = GrantedSlots(recorder.table), list[dict[str, Any]]()

    def look(slots: int, over: Callable[[dict[str, Any]], bool], cancel: Iterable[int] = ()) -> None:
        granted.change(Directives(slots=slots, cancel_trials=sorted(cancel)))
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            now = {
                "free": ray.available_resources().get("CPU", 0),
                "states": [trial.state for trial in list(recorder.table.trials.values())],
                "more_epochs": granted.more_epochs(),
                "waiting": [trial.number for trial in list(recorder.table.waiting())],
            }
            if (granted.are_read() and over(now)) or time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        seen.append(now)

    def watch() -> None:
        try:
            look(2, lambda now: len(now["more_epochs"]) == 2 and min(now["more_epochs"]) > 0)
            look(1, lambda now: now["free"] == 1)
            look(0, lambda now: now["free"] == 2)
            look(2, lambda now: now["free"] == 0 and min(now["more_epochs"]) > 0)
            look(4, lambda now: len(now["states"]) == 4 and not now["waiting"])
            nodes.exclude(Failure(ErrorKind.NODE, "another node cannot be used", "f" * 56))
            look(2, lambda now: len(now["waiting"]) == 2)
            waited = seen[-1]["waiting"]
            look(2, lambda now: all(now["more_epochs"][number] for number in waited), cancel={*range(4)} - {*waited})
        finally:
            granted.change(Directives(slots=0, stop="pause"))

    watching = threading.Thread(target=watch)
    watching.start()
    callback = TuneCallback(
        SearchPolicy(spec),
        Verdicts(spec.early_stopping, spec.objective, spec.max_epochs),
        recorder,
        CheckpointKeeper(storage.artifacts, spec.checkpoints, recorder.table),
        storage,
        granted,
        Fence(),
        lambda: None,
    )
    run_trials(launch, spec, recorder, callback, lambda: None, nodes)
    watching.join()
    recorder.close()
    return seen


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
