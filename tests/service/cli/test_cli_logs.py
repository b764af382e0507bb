"""`rung logs`, and the line on disk use of `rung show`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.settings import Settings
from tests.support.world import World


@pytest.fixture
def run(world: World, tmp_path: Path) -> Any:
    environment = {"RUNG_URL": str(world.client.base_url), "RUNG_HOME": str(tmp_path)}
    return lambda *arguments: CliRunner(env=environment).invoke(app, arguments)


@pytest.fixture
def one(world: World, settings: Settings) -> str:
    """A running experiment whose driver and trial 2 have said something."""
    experiment_id: str = world.started()
    world.beat(experiment_id, {"phase": "searching", "trials": [world.line(2)]})
    for name, text in (("logs/driver-a1.log", "größer\n" * 20_000), ("trials/00002/trial.log", "epoch 1\n")):
        path = Path(settings.storage_root) / experiment_id / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return experiment_id


def test_a_log_is_printed_whole(run: Any, one: str) -> None:
    assert run("logs", one).stdout == "größer\n" * 20_000
    assert run("logs", one, "--trial", "2").stdout == "epoch 1\n"
    lines = [json.loads(line) for line in run("logs", one, "--json").stdout.splitlines()]
    assert [piece["offset"] for piece in lines] == [0, *(piece["next_offset"] for piece in lines[:-1])]
    assert len(lines) > 1


def test_missing_logs_and_wrong_options_are_reported(run: Any, one: str) -> None:
    missing = run("logs", one, "--attempt", "4")
    assert (missing.exit_code, "it has 1 so far" in missing.stderr) == (2, True)
    both = ("logs", one, "--trial", "2", "--attempt", "1")
    assert run(*both).exit_code == 2
    assert json.loads(run(*both, "--json").stderr)["status"] == 422


def test_disk_use_is_shown(run: Any, one: str) -> None:
    shown = run("show", one).stdout.splitlines()[-1]
    assert re.fullmatch(r"  disk      18\d kB \(logs 180 kB, other [\d.]+ kB\)", shown), shown
