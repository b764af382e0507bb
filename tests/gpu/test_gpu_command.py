"""`make gpu` without a GPU: its import checks, and a rehearsal of the measurements on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str, code: tuple[str, ...] = ("-m", "tests.gpu")) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *code, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_without_a_gpu_it_only_checks_the_imports() -> None:
    """Ray, MLflow and the other blocked packages are hidden from that process."""
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    imports, device = done.stdout.splitlines()
    assert imports.startswith("imports: ok without fastapi, hypothesis, matplotlib, mlflow, optuna, ray")
    assert device.startswith("no CUDA device: torch ")


def test_hidden_packages_cannot_be_imported() -> None:
    done = run(code=("-c", "import tests.gpu.blocked, json; import ray"))
    assert "ModuleNotFoundError: No module named 'ray'" in done.stderr


def test_skipped_tests_fail_the_check_on_a_gpu() -> None:
    """In a process of its own, because the import hides packages from other tests."""
    cases = [("cuda", 9, 0), ("cuda", 9, 9), ("cuda", 0, 0), ("cpu", 9, 9)]
    results = [
        {"device": device, "tests": {"status": 0, "tests": tests, "skipped": skipped}, "packing": []}
        for device, tests, skipped in cases
    ]
    counted = f"from tests.gpu.__main__ import failed_checks; print([len(failed_checks(one)) for one in {results}])"
    assert run(code=("-c", counted)).stdout == "[0, 1, 1, 0]\n"


@pytest.mark.slow
def test_a_rehearsal_on_the_cpu_fills_both_tables(tmp_path: Path) -> None:
    done = run("--device", "cpu", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert results["tests"]["status"] == 0
    assert results["tests"]["skipped"] == results["tests"]["tests"] > 0
    assert len(results["loops"]) == 4
    assert [row["processes"] for row in results["packing"]] == [1, 2]
    assert all(row["images_per_second"] > 0 for row in (*results["loops"], *results["packing"]))
    assert [one["trials"] for one in results["probe"]["speeds"]] == [1, 2]
    assert (results["several"]["processes"], results["several"]["agrees"]) == (2, True)
    table = (tmp_path / "gpu.md").read_text()
    assert table.count("\n| ") == 2 + len(results["loops"]) + len(results["packing"])
