"""Absent data are refused where the service can know, and nowhere else."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from search_spaces.datasets import CIFAR10, Digits, FashionMNIST, ImageFolder, image_folder
from search_spaces.datasets.image_folder import checks
from search_spaces.datasets.image_folder.listing import Limits
from search_spaces.problems import SpecError
from search_spaces.storage.bucket import Bucket
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
        (warning,) = dataset_checks.check(ImageFolder(path="bird"), root)
        assert f"bird was not checked, because {root} " in warning
    for folder in ("birds/owl", "none"):
        (tmp_path / folder).mkdir(parents=True)
    for path, reason in (("birds", "it holds no file"), ("none", f"{tmp_path / 'none'} is empty")):
        (warning,) = dataset_checks.check(ImageFolder(path=path), tmp_path)
        assert "was not checked" in warning
        assert reason in warning


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
    (warning,) = dataset_checks.check(ImageFolder(path="birds"), tmp_path / root)
    assert "birds was not checked" in warning
    (warning,) = dataset_checks.check(FashionMNIST(), tmp_path / root, shared=True)
    assert warning.startswith(f"dataset: fashion_mnist is not in {tmp_path / root}")
    assert dataset_checks.check(Digits(), tmp_path / root, shared=True) == []


def test_stock_data_that_are_there_give_no_warning(tmp_path: Path) -> None:
    for path in ("fashion-mnist/FashionMNIST/raw/train-images-idx3-ubyte.gz", "cifar10/cifar-10-python.tar.gz"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).touch()
    for dataset in (FashionMNIST(), CIFAR10()):
        assert dataset_checks.check(dataset, tmp_path) == []


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
    assert "test must have images in class folders (got no folders, 1 image)" in error["rule"]


def fill(root: Path, *paths: str) -> None:
    """Files of different content, which no check decodes."""
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(f"{number}".encode())


@pytest.mark.parametrize("closed", ["private", "private/birds", "private/birds/train/owl", "private/birds/test"])
def test_a_folder_that_the_service_may_not_list_is_a_warning(
    client: httpx.Client, settings: Settings, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """The user of the workers may. On a data root that they share with the service it is a problem."""
    root, refused = settings.data_root / "private" / "birds", settings.data_root / closed
    fill(root, *(f"{part}/{name}/{n}.png" for part in ("train", "test") for name in ("owl", "wren") for n in range(3)))
    real_stat, real_scandir = os.stat, os.scandir

    def refuse(path: Any, closed: bool) -> None:
        if closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))

    def stat(path: Any, **options: Any) -> os.stat_result:
        refuse(path, not isinstance(path, int) and refused in Path(os.fsdecode(path)).parents)
        return real_stat(path, **options)

    def scandir(path: Any) -> Any:
        refuse(path, Path(path).is_relative_to(refused))
        return real_scandir(path)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "scandir", scandir)
    document = {"name": "x", "dataset": {"name": "image_folder", "path": "private/birds"}}
    answer = client.post("/api/v1/experiments", params={"validate_only": True}, json=document)
    assert answer.status_code == 200, answer.text
    named = max(root, refused)
    reason = f"image_folder: {named} cannot be listed (Permission denied)"
    note = f"dataset: private/birds was not checked on the service's machine: {reason}; the first trial checks it"
    assert note in answer.json()["warnings"]
    with pytest.raises(SpecError, match=re.escape(f"dataset.path: must be a folder of images in classes: {reason}")):
        dataset_checks.check(ImageFolder(path="private/birds"), settings.data_root, shared=True)


def test_what_the_names_tell_is_a_warning(client: httpx.Client, settings: Settings) -> None:
    """All before a trial starts: what was left out, what a split lacks, and how little a small set measures."""
    root = settings.data_root / "birds"
    fill(root, *(f"train/{name}/{index}.png" for name in ("owl", "wren") for index in range(30)))
    fill(root, "val/owl/1.png", "val/wren/1.png", "Test/owl/1.png", "Test/owl/2.png", "train/owl/notes.txt")
    document = {"name": "x", "dataset": {"name": "image_folder", "path": "birds"}}
    answer = client.post("/api/v1/experiments", params={"validate_only": True}, json=document)
    assert answer.status_code == 200
    warnings = answer.json()["warnings"]
    for sentence in (
        "dataset: 1 file that is not an image was left out: train/owl/notes.txt",
        "dataset: train is the train set, val is the validation set, Test is the test set; validation_fraction is not "
        "used",
        "dataset: the test set has no images of wren",
        "dataset: the validation set has 2 images: one is 50 % of the accuracy by which trials are compared",
        "dataset: the test set has 2 images: one is 50 % of the accuracy that is reported",
    ):
        assert sentence in warnings


def test_files_that_are_in_two_sets_are_a_warning(tmp_path: Path) -> None:
    root = tmp_path / "birds"
    names = [
        f"{part}/{name}/{index}.png" for part in ("train", "test") for name in ("owl", "wren") for index in range(9)
    ]
    fill(root, *names)
    (root / "test/owl/5.png").write_bytes((root / "train/owl/3.png").read_bytes())
    (root / "train/wren/2.png").write_bytes((root / "train/owl/4.png").read_bytes())
    (root / "train/owl/8.png").write_bytes((root / "train/owl/7.png").read_bytes())
    found = dataset_checks.check(ImageFolder(path="birds"), tmp_path)
    assert [
        warning for warning in found if "identical" in warning or "cop" in warning or "than one class" in warning
    ] == [
        "dataset: 1 file of test is identical to one of train and validation, so the test result looks better than "
        "it is: test/owl/5.png = train/owl/3.png",
        "dataset: 2 files of train are copies of others, and the validation set is cut from train, so its result may "
        "look better: train/owl/8.png = train/owl/7.png, train/wren/2.png = train/owl/4.png",
        "dataset: 2 files are in more than one class: train/owl/4.png is also in wren, train/wren/2.png is also in owl",
    ]
    fill(root, "val/owl/1.png", "val/wren/1.png")
    assert not any("copies" in warning for warning in dataset_checks.check(ImageFolder(path="birds"), tmp_path))


def test_little_is_read_before_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes are counted, not the seconds: files of one size, more than may be compared."""
    monkeypatch.setattr(checks, "MAX_COMPARED_FILES", 10)
    fill(tmp_path / "birds", *(f"{name}/{index}.png" for name in ("owl", "wren") for index in range(100)))
    read: list[Path] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or real(path))
    dataset_checks.check(ImageFolder(path="birds"), tmp_path)
    assert len(read) == 10
    monkeypatch.setattr(checks, "MAX_COMPARED_BYTES", 5)
    dataset_checks.check(ImageFolder(path="birds"), tmp_path)
    assert len(read) == 15
    monkeypatch.setattr(image_folder, "LIMITS", Limits(entries=50, opened=0))
    (warning,) = dataset_checks.check(ImageFolder(path="birds"), tmp_path)
    assert warning == "dataset: birds has more than 50 files and folders; the first trial checks it"
    assert len(read) == 15


def test_one_request_lists_a_folder_once(
    client: httpx.Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = settings.data_root / "birds"
    fill(root, *(f"{name}/{index}.png" for name in ("owl", "wren") for index in range(3)))
    listed: list[str] = []
    real = os.scandir

    def scandir(path: Any) -> Any:
        listed.append(os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    document = {"name": "x", "dataset": {"name": "image_folder", "path": "birds"}}
    assert client.post("/api/v1/experiments", params={"validate_only": True}, json=document).status_code == 200
    assert sorted(path for path in listed if path.startswith(str(root))) == [
        str(root / name) for name in ("", "owl", "wren")
    ]


def test_few_files_are_opened_before_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files without a suffix: those beyond the limit count as images, and prove nothing against the folder."""
    names = [f"train/{name}/{index}" for name in ("owl", "wren") for index in range(10)]
    for name in names:
        (tmp_path / "birds" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "birds" / name).write_bytes(b"\xff\xd8\xff" + name.encode())
    opened: list[Path] = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *args, **kw: opened.append(path) or real(path, *args, **kw))
    monkeypatch.setattr(image_folder, "LIMITS", Limits(entries=50, opened=15))
    monkeypatch.setattr(checks, "MAX_COMPARED_FILES", 0)
    found = dataset_checks.check(ImageFolder(path="birds"), tmp_path)
    assert len(opened) == len(set(opened)) == 15
    note = "dataset: 5 more files without a suffix count as images here; the first trial opens them"
    assert note in found
    (tmp_path / "birds/test/robin").mkdir(parents=True)
    (tmp_path / "birds/test/robin/notes").write_text("no image")
    (note,) = dataset_checks.check(ImageFolder(path="birds"), tmp_path)
    assert note == "dataset: birds has more than 15 files without a suffix; the first trial checks it"


def test_a_bucket_must_be_one_that_the_operator_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers' credentials may reach more, such as the storage of all teams."""
    looked: list[str] = []
    monkeypatch.setattr(image_folder, "listed_objects", lambda bucket, most: looked.append(bucket.address()))
    for buckets in ((), ("s3://pictures/bird",), ("s3://other",), ("s3://pictures/birds/owls",)):
        with pytest.raises(SpecError, match=r"dataset\.path: must be below one of the addresses of RUNG_DATA_BUCKETS"):
            dataset_checks.check(ImageFolder(path="s3://pictures/birds"), tmp_path, buckets=buckets)
    assert looked == []
    for buckets in (("s3://pictures",), ("s3://other", "s3://pictures/birds")):
        (note,) = dataset_checks.check(ImageFolder(path="s3://pictures/birds/"), tmp_path / "none", buckets=buckets)
        assert note == "dataset: the images in s3://pictures/birds are checked by the first trial"
    assert looked == ["s3://pictures/birds"] * 2


def test_a_bucket_that_the_service_cannot_list_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "the credentials do not allow it", "s3://pictures/birds")

    monkeypatch.setattr(Bucket, "objects", fail)
    dataset = ImageFolder(path="s3://pictures/birds")
    (note,) = dataset_checks.check(dataset, tmp_path, shared=True, buckets=["s3://pictures"])
    assert note.startswith("dataset: s3://pictures/birds was not checked on the service's machine: image_folder: s3:")
    assert "cannot be listed (the credentials do not allow it)" in note


@pytest.mark.parametrize("path", ["s3://", "s3://Birds", "s3://pictures/../x", "gs://_birds", "az://birds--x"])
def test_an_address_that_cannot_be_used_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="must be") as refused:
        ImageFolder(path=path)
    assert len(refused.value.errors()) == 1
