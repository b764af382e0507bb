"""Absent data are refused where the service can know, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from search_spaces.datasets import CIFAR10, Digits, FashionMNIST, ImageFolder
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


@pytest.mark.parametrize("root", ["empty", "absent"])
def test_a_data_root_that_the_workers_share_proves_more(tmp_path: Path, root: str) -> None:
    """On one machine even an empty folder is what the workers see: `rung up` says so."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match=r"dataset\.path: must be a folder in"):
        dataset_checks.check(ImageFolder(path="birds"), tmp_path / root, shared=True)
    (warning,) = dataset_checks.warnings(ImageFolder(path="birds"), tmp_path / root)
    assert "birds was not checked" in warning
    (warning,) = dataset_checks.warnings(FashionMNIST(), tmp_path / root, shared=True)
    assert warning.startswith(f"dataset: fashion_mnist is not in {tmp_path / root}")
    assert dataset_checks.warnings(Digits(), tmp_path / root, shared=True) == []


def test_stock_data_that_are_there_give_no_warning(tmp_path: Path) -> None:
    for path in ("fashion-mnist/FashionMNIST/raw/train-images-idx3-ubyte.gz", "cifar10/cifar-10-python.tar.gz"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    for dataset in (FashionMNIST(), CIFAR10()):
        assert dataset_checks.warnings(dataset, tmp_path) == []


def test_a_layout_that_cannot_be_used_is_refused_before_anything_waits_for_it(
    client: httpx.Client, settings: Settings
) -> None:
    for path in ("train/owl/1.png", "train/wren/1.png", "test/1.png"):
        (settings.data_root / "birds" / path).parent.mkdir(parents=True, exist_ok=True)
        (settings.data_root / "birds" / path).touch()
    document = {"name": "x", "dataset": {"name": "image_folder", "path": "birds"}}
    answer = client.post("/api/v1/experiments", params={"validate_only": True}, json=document)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["field"] == "dataset.path"
    assert "test must have images in class folders (got no folders, 1 images)" in error["rule"]
