"""How many trials share a GPU, measured on a real Ray that only believes in its GPU: the trials train on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from search_spaces.experiment import ExperimentSpec
from search_spaces.protocol import Directives, LaunchConfig
from workers.nodes import Nodes
from workers.packing.gpu_probe import NOT_MEASURED, GpuProbe, measure_with_ray

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ANSWERS = "answers.json"
ON_CPU = partial(measure_with_ray, on_gpu=False)
NETWORK = {"kind": "cnn", "width": {"choice": [2, 4]}, "depth": 1}
LIMIT_S = 60.0


@pytest.mark.usefixtures("for_local_ray")
def test_it_is_measured_by_a_task_that_holds_a_gpu(tmp_path: Path) -> None:
    """In a separate process with a Ray of its own. The answers are in a file, because Ray prints to its output."""
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-5000:]
    answers = json.loads((tmp_path / ANSWERS).read_text())
    measured = answers["measured"]
    assert [one["trials"] for one in measured["speeds"]] == [1, 2], "the node has two CPUs"
    assert measured["trials"] in {1, 2}
    assert (measured["note"], measured["peak_bytes"] < measured["total_bytes"]) == ("", True)
    assert answers["interrupted"] == {"found": None, "processes left": 0, "GPUs free": 1.0}
    assert answers["cannot be trained"]["trials"] == 1
    assert answers["cannot be trained"]["note"].startswith(f"{NOT_MEASURED}ValueError: `normalization.groups` must")
    assert answers["no such plugin"] is None, "somebody may install it"


def main(folder: Path) -> dict[str, Any]:
    ray.init("local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
    launch = LaunchConfig(
        experiment_id="x", attempt=1, attempt_id="exp-x-a1", service_url="http://nowhere", token="t", slots=1,
        mlflow_tracking_uri="http://nowhere", storage=str(folder), data_root=str(folder), cache_root=str(folder),
    )  # fmt: skip

    def measure(model: dict[str, Any], **space: Any) -> dict[str, Any] | None:
        probe = GpuProbe(Nodes(launch), ON_CPU)
        found = probe.measure(spec_of(model, **space), launch, lambda: Directives(slots=1), lambda: False)
        return None if found is None else found.model_dump(mode="json")

    measured = measure(NETWORK)
    interrupted = ON_CPU(spec_of(NETWORK), launch, {}, lambda: bool(trainers()))
    deadline = time.monotonic() + LIMIT_S
    while (trainers() or free_gpus() < 1) and time.monotonic() < deadline:
        time.sleep(0.1)
    return {
        "measured": measured,
        "interrupted": {"found": interrupted, "processes left": len(trainers()), "GPUs free": free_gpus()},
        "cannot be trained": measure(NETWORK, normalization={"kind": "group", "groups": 64}),
        "no such plugin": measure({"kind": "plugin", "name": "nowhere"}),
    }


def spec_of(model: dict[str, Any], **space: Any) -> ExperimentSpec:
    space |= {"model": model, "batch_size": 64}
    document = {"name": "x", "search_space": space, "resources": {"gpus_per_trial": "auto"}}
    return ExperimentSpec.model_validate(document)


def free_gpus() -> float:
    return float(ray.available_resources().get("GPU", 0.0))


def trainers() -> list[str]:
    """Processes of this Ray that train for a measurement."""
    token = os.environ["RAY_AUTH_TOKEN"].encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if b"workers.packing.trainer" in command and token in environment:
            found.append(process.name)
    return found


if __name__ == "__main__":
    (Path(sys.argv[1]) / ANSWERS).write_text(json.dumps(main(Path(sys.argv[1]))))
