"""Slots on a real Ray: a search yields the slots that it loses, and resumes its trials when it gets them back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import ExperimentFolder
from search_spaces.protocol import Directives, LaunchConfig
from search_spaces.storage.folder import FolderStorage
from workers.fence import Fence
from workers.ray_patches import startup
from workers.search.checkpoint_keeper import CheckpointKeeper
from workers.search.policy import SearchPolicy
from workers.search.tune_callbacks import TuneCallback
from workers.search.tune_run import run_trials
from workers.search.verdicts import Verdicts
from workers.state.recorder import Recorder

pytestmark = pytest.mark.e2e

TIMEOUT_S = 40
#: Epochs that a trial may report after its slot was withdrawn: one whose result Tune was handling at that moment, and
#: the one that it then let begin.
MOST_EPOCHS = 2
SPEC = {
    "name": "shrinking",
    "search_space": {"model": {"kind": "cnn", "width": 8, "depth": 2}, "batch_size": {"choice": [64, 128]}},
    "searcher": {"kind": "random", "num_samples": 50},
    "max_epochs": 5000,
    "early_stopping": "none",
    "resources": {"gpus_per_trial": 0},
}


def test_slots_are_free_within_an_epoch_and_trials_resume_later(as_a_driver: dict[str, str], tmp_path: Path) -> None:
    """Runs in a separate process, because the startup patches Tune, and on the two cores of an otherwise idle stack."""
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=as_a_driver, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-5000:]
    both, one, none, again = json.loads(done.stdout.splitlines()[-1])
    assert (both["free"], both["states"]) == (0, ["RUNNING", "RUNNING"])
    assert (one["free"], sorted(one["states"])) == (1, ["PAUSED", "RUNNING"])
    assert one["more_epochs"][one["states"].index("PAUSED")] <= MOST_EPOCHS
    assert (none["free"], none["states"]) == (2, ["PAUSED", "PAUSED"])
    assert max(none["more_epochs"]) <= MOST_EPOCHS
    assert (again["free"], again["states"]) == (0, ["RUNNING", "RUNNING"]), (
        "another trial was started before the paused ones"
    )


def main(folder: Path) -> list[dict[str, Any]]:
    """Search with two slots, one, none and again two, and return what was observed each time."""
    launch = LaunchConfig(
        experiment_id="x", attempt=1, attempt_id="exp-x-a1", service_url="http://nowhere", token="t", slots=2,
        mlflow_tracking_uri="http://nowhere", storage=str(folder), data_root=str(folder), cache_root=str(folder),
    )  # fmt: skip
    spec = ExperimentSpec.model_validate(SPEC)
    startup.prepare(launch.slots)
    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    root = ExperimentFolder(folder)
    recorder = Recorder(FolderStorage(root.root).journal, spec.objective)
    directives, seen = [Directives(slots=2)], list[dict[str, Any]]()

    def look(slots: int, over: Callable[[dict[str, Any]], bool]) -> None:
        directives[0] = Directives(slots=slots)
        before = Counter({trial.number: trial.epoch for trial in list(recorder.table.trials.values())})
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            now = {
                "free": ray.available_resources().get("CPU", 0),
                "states": [trial.state for trial in list(recorder.table.trials.values())],
                "more_epochs": [trial.epoch - before[trial.number] for trial in list(recorder.table.trials.values())],
            }
            if over(now) or time.monotonic() >= deadline:
                break
            time.sleep(0.05)
        seen.append(now)

    def watch() -> None:
        try:
            look(2, lambda now: len(now["more_epochs"]) == 2 and min(now["more_epochs"]) > 0)
            look(1, lambda now: now["free"] == 1)
            look(0, lambda now: now["free"] == 2)
            look(2, lambda now: now["free"] == 0 and min(now["more_epochs"]) > 0)
        finally:
            directives[0] = Directives(slots=0, stop="pause")

    watching = threading.Thread(target=watch)
    watching.start()
    callback = TuneCallback(
        SearchPolicy(spec),
        Verdicts(spec.early_stopping, spec.objective, spec.max_epochs),
        recorder,
        CheckpointKeeper(FolderStorage(root.root).artifacts, spec.checkpoints, recorder.table),
        FolderStorage(root.root),
        lambda: directives[0],
        Fence(),
        lambda: None,
    )
    run_trials(launch, spec, recorder, callback, lambda: None)
    watching.join()
    recorder.close()
    return seen


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
