"""What is known of an experiment's data, over REST and in `rung show`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from search_spaces.layout import ExperimentFolder
from service.cli import app
from service.settings import Settings
from tests.support.data_reports import data_report
from tests.support.world import World

pytestmark = pytest.mark.stores


def file_of(settings: Settings, experiment_id: str) -> Path:
    path = ExperimentFolder(Path(settings.storage_root) / experiment_id).data_report
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_what_a_trial_found_the_data_to_be(world: World, settings: Settings) -> None:
    one = world.started()
    address = f"/api/v1/experiments/{one}/data"
    answer = world.client.get(address)
    assert answer.status_code == 404
    assert "is RUNNING, and no trial has read its data" in answer.json()["detail"]
    report = data_report()
    file_of(settings, one).write_text(report.model_dump_json())
    assert world.client.get(address).json() == report.model_dump(mode="json")
    file_of(settings, one).write_text("{")
    assert world.client.get(address).status_code == 503


def test_show_says_what_is_known_of_the_data(world: World, settings: Settings) -> None:
    one = world.started()
    runner = CliRunner(env={"RUNG_URL": str(world.client.base_url)})
    silent = runner.invoke(app, ["show", one])
    assert (silent.exit_code, "classes" in silent.stdout) == (0, False)
    file_of(settings, one).write_text(data_report().model_dump_json())
    shown = runner.invoke(app, ["show", one]).stdout
    assert "  data      image_folder birds: 11 train, 3 validation, 7 test; images of 3x64x64\n" in shown
    assert "  classes   2: owl, wren\n" in shown
    assert "  sizes     20 of 640x480, 1 of other sizes\n" in shown
    assert "  values    0 to 4095; 0 and 4095 are black and white\n" in shown
    assert f"  test set  sha256 {'ab' * 32}\n" in shown
    assert "  note      1 file that is not an image was left out: owl/notes.txt\n" in shown
