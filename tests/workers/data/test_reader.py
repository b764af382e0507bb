"""Every reader fulfils the contract, and every data set of a spec has a reader."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from search_spaces.datasets import MNIST, Dataset, DatasetSpec, Digits, ImageFolder
from search_spaces.spec import members
from tests.support.contracts.dataset_reader import DatasetReaderContract
from tests.support.image_files import save_image, write_idx_files
from workers.data.digits import DigitsReader
from workers.data.errors import DataError
from workers.data.reader import reader_of
from workers.data.splits import load
from workers.targets import resolve_target


@pytest.mark.parametrize("dataset", members(Dataset))
def test_every_data_set_names_a_reader_and_its_classes_exist(dataset: type[DatasetSpec]) -> None:
    assert callable(resolve_target(dataset.reader).decode)
    if target := getattr(dataset, "target", None):
        assert callable(resolve_target(target))


def test_a_data_set_without_a_reader_is_an_error() -> None:
    class Unreadable(DatasetSpec):
        name: str = "unreadable"

    with pytest.raises(AttributeError, match="reader"):
        reader_of(Unreadable(), Path())


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), RuntimeError("cut short"), KeyError("labels")])
def test_any_error_of_a_reader_is_a_data_error(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(DigitsReader, "decode", fail)
    with pytest.raises(DataError, match="digits: cannot be read from") as raised:
        load(Digits(), 0, tmp_path, tmp_path / "cache")
    assert raised.value.__cause__ is error
    monkeypatch.setattr(DigitsReader, "__init__", fail)
    with pytest.raises(DataError, match="digits: cannot be read from"):
        load(Digits(), 0, tmp_path, tmp_path / "cache")


def test_a_memory_error_is_no_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(DigitsReader, "decode", fail)
    with pytest.raises(MemoryError):
        load(Digits(), 0, tmp_path, tmp_path / "cache")


def test_a_test_set_that_was_deleted_from_the_cache_is_a_data_error(tmp_path: Path) -> None:
    splits = load(Digits(), 0, tmp_path, tmp_path / "cache")
    for file in (tmp_path / "cache").glob("*/test_images.npy"):
        file.unlink()
    with pytest.raises(DataError, match="digits: cannot be read from"):
        splits.test()


class TestDigits(DatasetReaderContract):
    @pytest.fixture
    def dataset(self) -> DatasetSpec:
        return Digits()

    @pytest.fixture
    def data_root(self, tmp_path: Path) -> Path:
        return tmp_path / "empty"


class TestImageFolder(DatasetReaderContract):
    @pytest.fixture
    def dataset(self) -> DatasetSpec:
        return ImageFolder(path="images", size=8)

    @pytest.fixture
    def data_root(self, tmp_path: Path) -> Path:
        for label, color in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
            for index in range(6):
                save_image(tmp_path / f"root/images/{label}/{index}.png", color)
        return tmp_path / "root"

    def change(self, data_root: Path) -> None:
        save_image(data_root / "images/red/new.png", (255, 9, 9))

    def damage(self, data_root: Path) -> None:
        (data_root / "images/red/0.png").write_bytes(b"")


class TestTorchvisionIdxFiles(DatasetReaderContract):
    @pytest.fixture
    def dataset(self) -> DatasetSpec:
        return MNIST()

    @pytest.fixture
    def data_root(self, tmp_path: Path) -> Path:
        write_idx_files(tmp_path / "root/mnist", compressed=False)
        return tmp_path / "root"

    def change(self, data_root: Path) -> None:
        os.utime(data_root / "mnist/t10k-images-idx3-ubyte", (2_000_000_000, 2_000_000_000))

    def damage(self, data_root: Path) -> None:
        (data_root / "mnist/t10k-images-idx3-ubyte").write_bytes(b"cut")
