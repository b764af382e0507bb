"""The file of which validation images a trial got right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search_spaces.layout import NAMES
from search_spaces.storage.folder import FolderStorage
from workers.state.outcomes import ValidationOutcomes, load_outcomes

TRIAL = NAMES.trial(3)


@pytest.mark.parametrize("right", [[], [True], [False] * 8, [True, False, True] * 3, [True] * 216])
def test_what_is_written_is_read(tmp_path: Path, right: list[bool]) -> None:
    artifacts = FolderStorage(tmp_path).artifacts
    written = ValidationOutcomes(2, 0.25, right)
    artifacts.write(TRIAL.validation, written.encode())
    assert load_outcomes(artifacts, TRIAL, 2) == written
    assert load_outcomes(artifacts, TRIAL, 3) is None, "they are of another epoch"


def test_the_form_is_pinned() -> None:
    stored = json.loads(
        ValidationOutcomes(1, float("inf"), [True, False, False, False, True, True, True, True, True]).encode()
    )
    assert stored == {"version": 1, "epoch": 1, "loss": None, "images": 9, "right": "j4A="}


def test_ten_thousand_images_take_less_than_two_kilobytes() -> None:
    assert len(ValidationOutcomes(20, 0.123456789, [True] * 10_000).encode()) < 2000


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 1}', '{"version":1,"epoch":2,"loss":0,"images":9,"right":"AA=="}']
)
def test_a_damaged_file_is_logged_and_not_used(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    artifacts = FolderStorage(tmp_path).artifacts
    artifacts.write(TRIAL.validation, content.encode())
    assert load_outcomes(artifacts, TRIAL, 2) is None
    assert "validation.json cannot be used" in caplog.text


def test_a_trial_of_version_0_1_has_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_outcomes(FolderStorage(tmp_path).artifacts, TRIAL, 2) is None
    assert caplog.text == ""
