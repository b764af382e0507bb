"""What the command line computes here: over REST, in a process with torch; and what it must not import itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from search_spaces.experiment import ExperimentSpec
from service.cli import local_process
from service.client import Client
from service.contract.errors import MEDIA_TYPE, ConflictError, NotFoundError

SPEC = ExperimentSpec.model_validate({"name": "x", "search_space": {"model": {"kind": "cnn", "width": 4}}})
TRIAL = {
    "trial": 3, "state": "RUNNING", "stop_reason": "", "epoch": 1, "best_value": None, "metrics": {}, "parameters": {},
    "mlflow_run_id": "r", "mlflow_url": None, "started_at": None, "ended_at": None,
}  # fmt: skip


DATA = {"name": "digits", "classes": ["0"], "counts": {"train": [1]}, "shape": [1, 8, 8], "test_sha256": "0" * 64}


def service(epoch: int, train_loss: float, data: dict[str, Any] | None = None) -> Client:
    """A service with one trial and one recorded point. Without `data`, no trial has reported on its data set."""
    point = {"step": 1, "value": train_loss, "timestamp": "2026-01-01T00:00:00Z"}
    answers: dict[str, Any] = {
        "3": TRIAL | {"epoch": epoch},
        "spec": SPEC.bind({}, 3).model_dump(mode="json"),
        "data": data,
        "curves": {"trial": 3, "mlflow_run_id": "r", "metrics": {"train_loss": [point]}},
    }

    def answer(request: httpx.Request) -> httpx.Response:
        asked = request.url.path.rpartition("/")[2]
        if asked == "data" and data is None:
            absent = NotFoundError("no trial has read the data yet").document()
            return httpx.Response(404, json=absent, headers={"Content-Type": MEDIA_TYPE})
        return httpx.Response(200, json=answers[asked])

    return Client("http://rung", transport=httpx.MockTransport(answer))


def test_a_trial_that_differs_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with service(1, 0.5) as client:
        status = local_process.reproduce(
            client, "abc", 3, data_root=tmp_path, cache_root=tmp_path / "cache", tolerance=None, as_json=True
        )
    assert status == 1
    document = json.loads(capfd.readouterr().out)
    (difference,) = document["differences"]
    assert (difference["epoch"], difference["metric"], difference["recorded"]) == (1, "train_loss", 0.5)
    with service(1, difference["again"]) as client:
        status = local_process.reproduce(
            client, "abc", 3, data_root=tmp_path, cache_root=tmp_path / "cache", tolerance=None, as_json=False
        )
    assert status == 0, "what was computed once is computed again, in another process"
    assert "1 point is equal bit for bit" in capfd.readouterr().out


def test_a_trial_of_other_data_is_not_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with service(1, 0.5, DATA) as client:
        status = local_process.reproduce(
            client, "abc", 3, data_root=tmp_path, cache_root=tmp_path / "cache", tolerance=None, as_json=False
        )
    assert status == 2
    assert "the data set digits has changed since the trial: its classes are" in capfd.readouterr().err


def test_a_trial_without_an_epoch_cannot_be_compared(tmp_path: Path) -> None:
    with service(0, 0.5) as client, pytest.raises(ConflictError, match="finished no epoch"):
        local_process.reproduce(
            client, "abc", 3, data_root=tmp_path, cache_root=tmp_path, tolerance=None, as_json=False
        )


def test_explain_in_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec, roots = SPEC.model_dump(mode="json"), {"data_root": tmp_path, "cache_root": tmp_path}
    assert local_process.explain("schedulers", spec, out=tmp_path, **roots, as_json=True) == 0
    assert json.loads(capfd.readouterr().out) == {"plots": [str(tmp_path / "schedulers.png")]}


def test_explain_says_what_it_lacks(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    roots = {"data_root": tmp_path, "cache_root": tmp_path}
    assert local_process.explain("augmentation", None, out=tmp_path, **roots, as_json=True) == 2
    said = capfd.readouterr()
    assert said.out == ""
    problem = json.loads(said.err)
    assert (problem["status"], problem["detail"][:18]) == (422, "a SPEC is required")
    assert local_process.explain("augmentation", None, out=tmp_path, **roots) == 2
    assert "a SPEC is required" in capfd.readouterr().err


def test_texts_of_a_spec_reach_the_terminal_without_escape_sequences(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = {"kind": "image_folder", "path": "a\x1b]0;owned\x07b"}
    spec = {"name": "x", "dataset": dataset, "search_space": {"model": {"kind": "cnn", "width": 4}}}
    status = local_process.explain("augmentation", spec, out=tmp_path, data_root=tmp_path, cache_root=tmp_path)
    said = capfd.readouterr()
    assert status == 2
    assert "ab" in said.err
    assert "\x1b" not in said.err + said.out


def test_the_command_line_stays_light() -> None:
    heavy = ("sqlalchemy", "fastapi", "ray", "mlflow", "torch", "matplotlib")
    modules = "sys, service.cli, service.client, service.cli.rendering"
    code = f"import {modules}; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
