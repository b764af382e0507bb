"""A plugin on a real Ray: whatever it changes in its process, no other trial is trained in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from search_spaces.experiment import ExperimentSpec
from search_spaces.layout import NAMES
from search_spaces.protocol import Directives, LaunchConfig
from search_spaces.storage.base import read_document
from search_spaces.storage.folder import FolderStorage
from search_spaces.stored import read_trial_spec
from workers.data.splits import load
from workers.fence import Fence
from workers.nodes import Nodes
from workers.ray_patches import startup
from workers.search.checkpoint_keeper import CheckpointKeeper
from workers.search.policy import SearchPolicy
from workers.search.tune_callbacks import TuneCallback
from workers.search.tune_run import run_trials
from workers.search.verdicts import Verdicts
from workers.state.recorder import Recorder
from workers.training.loop import Training
from workers.winner.evaluation import WinnerEvaluation

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SPEC = {
    "name": "meddled",
    "search_space": {
        "model": {"choice": [{"kind": "plugin", "name": "meddler"}, {"kind": "cnn", "width": 4, "depth": 1}]},
        "batch_size": 64,
    },
    "searcher": {"kind": "random", "num_samples": 2, "initial": [{"model.kind": "plugin"}, {"model.kind": "cnn"}]},
    "max_epochs": 2,
    "early_stopping": "none",
    "resources": {"gpus_per_trial": 0},
}
PLUGIN = """
import locale, os, random, signal, sys, threading, warnings
import numpy
import torch
from torch import nn
from torch.nn import functional

original = functional.cross_entropy


def build(normalizer, channels, classes, image_size):
    model = nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, classes))
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("medium")
    functional.cross_entropy = lambda *given, **options: 0.5 * original(*given, **options)
    os.chdir("/")
    os.umask(0o077)
    os.environ["OMP_NUM_THREADS"] = "7"
    os.environ.pop("HOME", None)
    warnings.simplefilter("error")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    locale.setlocale(locale.LC_ALL, "C")
    random.seed(0), numpy.random.seed(0)
    sys.path.clear()
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return model
"""


@pytest.mark.usefixtures("for_local_ray")
def test_a_plugin_that_changes_everything_changes_no_other_trial(tmp_path: Path) -> None:
    """Runs in a separate process, because the startup patches Tune, on a Ray of its own with one core."""
    packages = tmp_path / "packages"
    metadata = packages / "meddler-1.0.dist-info"
    metadata.mkdir(parents=True)
    (packages / "meddler.py").write_text(PLUGIN)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: meddler\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[rung.models]\nmeddler = meddler:build\n")
    command = [sys.executable, __file__, str(tmp_path / "experiment")]
    environment = os.environ | {"PYTHONPATH": str(packages)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment)
    assert done.returncode == 0, done.stderr[-5000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["models"] == ["plugin", "cnn"]
    assert answer["states"] == ["COMPLETED", "COMPLETED"]
    assert answer["processes"] == [1, 2], "and the process that evaluated its model does nothing else"
    assert answer["losses"] == answer["by_itself"], "bit for bit as without the plugin"


class Evaluator:
    """Tells its process."""

    def evaluate(self, *_: Any) -> int:
        return os.getpid()


def winner_processes(launch: LaunchConfig, reused: bool) -> int:
    """The number of processes in which two winners are evaluated."""
    evaluation = WinnerEvaluation({"CPU": 1.0, "GPU": 0.0}, Nodes(launch), Evaluator, reused=reused)
    return len({evaluation.evaluate(0, 1, launch, max_restarts=0, stop_requested=bool) for _ in range(2)})


def main(folder: Path) -> dict[str, Any]:
    folder.mkdir()
    launch = LaunchConfig(
        experiment_id="x", attempt=1, attempt_id="exp-x-a1", service_url="http://nowhere", token="t", slots=1,
        mlflow_tracking_uri="http://nowhere", storage=str(folder), data_root=str(folder), cache_root=str(folder),
    )  # fmt: skip
    spec = ExperimentSpec.model_validate(SPEC)
    startup.prepare(launch.slots)
    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    storage = FolderStorage(folder)
    recorder = Recorder(storage.journal, spec.objective)
    callback = TuneCallback(
        SearchPolicy(spec),
        Verdicts(spec.early_stopping, spec.objective, spec.max_epochs),
        recorder,
        CheckpointKeeper(storage.artifacts, spec.checkpoints, recorder.table),
        storage,
        lambda: Directives(slots=1),
        Fence(),
        lambda: None,
    )
    run_trials(launch, spec, recorder, callback, lambda: None)
    recorder.close()
    processes = [winner_processes(launch, reused) for reused in (True, False)]
    ray.shutdown()
    trials = [recorder.table.trials[number] for number in range(2)]
    trial = read_trial_spec(read_document(storage.artifacts, NAMES.trial(1).spec))
    torch.set_num_threads(trial.cpus)
    again = Training(trial, load(trial.dataset, trial.split_seed, folder, folder))
    return {
        "models": [trial.parameters["model.kind"] for trial in trials],
        "states": [trial.state for trial in trials],
        "losses": trials[1].metrics["validation_loss"],
        "by_itself": [again.run_epoch()["validation_loss"] for _ in range(2)][-1],
        "ended_at": [trial.ended_at for trial in trials],
        "processes": processes,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
