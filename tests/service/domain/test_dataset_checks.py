"""Absent data are refused where the service can know, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from search_spaces.datasets import Digits, ImageFolder
from search_spaces.problems import SpecError
from service.domain import dataset_checks
from service.settings import Settings


def test_an_image_folder_must_be_in_the_data_root(tmp_path: Path) -> None:
    (tmp_path / "birds" / "owl").mkdir(parents=True)
    dataset_checks.check(ImageFolder(path="birds"), tmp_path)
    dataset_checks.check(Digits(), tmp_path)
    with pytest.raises(SpecError, match=r"dataset\.path: must be a folder in"):
        dataset_checks.check(ImageFolder(path="bird"), tmp_path)


def test_an_inaccessible_data_root_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "none"):
        dataset_checks.check(ImageFolder(path="bird"), root)


def test_a_submission_with_a_missing_dataset_is_refused_with_its_field(
    client: httpx.Client, settings: Settings
) -> None:
    (settings.data_root / "birds").mkdir(parents=True)
    answer = client.post("/api/v1/experiments", json={"name": "x", "dataset": {"name": "image_folder", "path": "bird"}})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["field"], error["value"]) == ("dataset.path", "bird")
    known = {"name": "x", "dataset": {"name": "image_folder", "path": "birds"}}
    assert client.post("/api/v1/experiments", json=known).status_code == 201
