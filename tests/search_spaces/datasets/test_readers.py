"""Every reader fulfils the contract, and whatever else a reader raises is a data error."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torchvision

from search_spaces.datasets import MNIST, Dataset, Digits, ImageFolder
from search_spaces.datasets.base import DataError, DatasetSpec, DataUnavailableError
from search_spaces.datasets.digits import DigitsReader
from search_spaces.datasets.torchvision_files import TorchvisionDataset
from search_spaces.spec import members
from tests.support.contracts.dataset_reader import DatasetReaderContract
from tests.support.image_files import save_image, write_idx_files
from workers.data.splits import load


@pytest.mark.parametrize("dataset", [cls for cls in members(Dataset) if issubclass(cls, TorchvisionDataset)])
def test_every_loader_is_a_class_of_torchvision(dataset: type[TorchvisionDataset]) -> None:
    assert issubclass(getattr(torchvision.datasets, dataset.loader), torchvision.datasets.VisionDataset)


@pytest.mark.parametrize(
    ("error", "elsewhere"),
    [(OSError(5, "Input/output error"), True), (RuntimeError("cut short"), False), (EOFError(), False)],
)
def test_any_error_of_a_reader_is_a_data_error(
    error: Exception, elsewhere: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(DigitsReader, "decode", fail)
    with pytest.raises(
        DataError, match=r"digits: cannot be read from .*: (.*Input/output error|cut short|EOFError)$"
    ) as raised:
        load(Digits(), 0, tmp_path, tmp_path / "cache")
    assert raised.value.__cause__ is error
    assert isinstance(raised.value, DataUnavailableError) == elsewhere, "another node may be able to read the data"
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
    with pytest.raises(DataUnavailableError, match=r"digits: cannot be read: .*/cache/.*test_images.npy"):
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
