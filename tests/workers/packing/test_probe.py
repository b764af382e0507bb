"""The probe, in real processes that train: on CPUs here, and on a GPU where there is one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from search_spaces.experiment import ExperimentSpec, TrialSpec
from workers.packing import probe
from workers.packing.number import fastest
from workers.packing.probe import COMMAND, ProbeError, Roots, measure

SMALL = ExperimentSpec.model_validate(
    {"name": "x", "search_space": {"model": {"kind": "cnn", "width": 2, "depth": 1}, "batch_size": 64}}
).bind({})


def roots(folder: Path) -> Roots:
    return Roots(folder, folder / "cache")


def test_processes_that_train_are_measured(tmp_path: Path) -> None:
    said: list[str] = []
    found = measure(SMALL, roots(tmp_path), 2, 0.2, said.append)
    speeds = {one.trials: one.images_per_second or 0.0 for one in found.speeds}
    assert (sorted(speeds), found.note) == ([1, 2], "")
    assert min(speeds.values()) > 0
    assert found.trials == fastest(speeds)
    assert 50e6 < (found.peak_bytes or 0) < (found.total_bytes or 0)
    assert [line.split(":")[0] for line in said[1:]] == ["1 at once", "2 at once"]


def test_a_process_ends_with_its_input_also_while_it_trains(tmp_path: Path) -> None:
    request = {"data_root": str(tmp_path), "cache_root": str(tmp_path / "cache"), "spec": SMALL.model_dump(mode="json")}
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{json.dumps(request)}\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["peak_bytes"] > 0
        process.stdin.write("3600\n")
        process.stdin.close()
        assert process.wait(timeout=60) == 0
        assert process.stdout.read() == ""


def test_a_configuration_that_cannot_be_trained_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "COMMAND", ("/bin/sh", "-c", "echo 'ValueError: no such layer' >&2; exit 1"))
    with pytest.raises(ProbeError, match="no such layer"):
        measure(SMALL, roots(tmp_path), 2, 0.1)


def test_what_cannot_be_trained_so_often_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"""mkdir {tmp_path}/first 2>/dev/null || {{ printf "MemoryError: too large%20000d" 1 >&2; exit 1; }}
    read request; echo '{{"peak_bytes": 1000, "total_bytes": 1000000}}'
    while read seconds; do echo '{{"images": 5}}'; done"""
    monkeypatch.setattr(probe, "COMMAND", ("/bin/sh", "-c", script))
    found = measure(SMALL, roots(tmp_path), 4, 0.1)
    assert ([(one.trials, one.images_per_second) for one in found.speeds], found.trials) == ([(1, 5.0)], 1)
    assert found.note.startswith("2 at once failed: MemoryError: too large ")
    assert len(found.note) < 1000, "the service refuses long texts"


def test_what_a_plugin_prints_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package := tmp_path / "loud-1.dist-info").mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[rung.models]\nloud = loud:network\n")
    (tmp_path / "loud.py").write_text(
        "import os, torch\n"
        "def network(normalizer, channels, classes, image_size):\n"
        "    os.system('echo building')\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(channels * image_size ** 2, classes))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    space = {"model": {"kind": "plugin", "name": "loud"}, "batch_size": 64}
    loud = ExperimentSpec.model_validate({"name": "x", "search_space": space}).bind({})
    assert [one.trials for one in measure(loud, roots(tmp_path), 1, 0.1).speeds] == [1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_measured(tmp_path: Path) -> None:
    on_gpu: TrialSpec = SMALL.model_copy(update={"gpus": 1.0})
    found = measure(on_gpu, roots(tmp_path), 2, 1.0)
    assert [one.trials for one in found.speeds] == [1, 2]
    assert found.total_bytes == torch.cuda.get_device_properties(0).total_memory
    assert found.peak_bytes is not None
    assert found.peak_bytes < 4e9, "a small network, and a context"
