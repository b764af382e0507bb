"""`rung doctor` on a real stack: the service, Ray, MLflow, the storage and the node are as they should be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service import stack
from service.cli import app

pytestmark = pytest.mark.e2e


def test_the_doctor_finds_a_working_stack(up: stack.Stack, storage: Path) -> None:
    before = {path.name for path in storage.iterdir()}
    runner = CliRunner(env={"RUNG_URL": up.addresses.service, "RUNG_HOME": str(up.home)})
    found = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)["findings"]
    first = {one["part"]: one for one in reversed(found)}
    assert {part: one["verdict"] for part, one in first.items()} == dict.fromkeys(first, "ok"), found
    assert "can train" in first["node"]["detail"], first["node"]
    assert {path.name for path in storage.iterdir()} == before
