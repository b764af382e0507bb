"""Data sets that torchvision reads: compressed and plain, damaged and absent files."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import shutil
import tarfile
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets as torchvision_datasets

from search_spaces.datasets import CIFAR10, CIFAR100, MNIST, FashionMNIST
from search_spaces.datasets.base import DataUnavailableError
from tests.support.image_files import idx, write_idx_files
from workers.data.splits import DataError, load

REAL = Path(os.environ.get("RUNG_TEST_DATA") or Path(__file__).parents[4] / "shared" / "data")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every download by torchvision fails at once."""

    def unreachable(*arguments: Any, **options: Any) -> None:
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: None) -> dict[str, np.ndarray]:
    """Compressed files of forty training images, whose md5 sums torchvision expects."""
    arrays = write_idx_files(tmp_path / "packed", compressed=True)
    names = [name for name, _ in torchvision_datasets.MNIST.resources]
    sums = [(name, hashlib.md5((tmp_path / "packed" / name).read_bytes()).hexdigest()) for name in names]
    monkeypatch.setattr(torchvision_datasets.MNIST, "resources", sums)
    return arrays


@pytest.mark.parametrize("layout", ["mnist/MNIST/raw", "mnist/raw", "mnist", "MNIST/raw", ""])
def test_compressed_files_in_a_read_only_root_are_read_and_not_changed(
    tmp_path: Path, small_mnist: dict[str, np.ndarray], layout: str
) -> None:
    root = tmp_path / "data"
    (root / layout).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(tmp_path / "packed", root / layout, dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for path in [root, *before]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    splits = load(MNIST(), 0, root, tmp_path / "cache")
    assert np.array_equal(splits.test()[0][:, 0].numpy(), small_mnist["t10k"])
    assert len(splits.train_images) + len(splits.validation_images) == 40
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before, "the data root was changed"
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_symlink() or "ubyte" in path.name]
    assert not left, "unpacked files remain"
    for path in [root, *before]:
        path.chmod(0o755)


def test_plain_files_are_read_and_read_again_after_a_change(tmp_path: Path, offline: None) -> None:
    arrays = write_idx_files(tmp_path / "data/mnist/MNIST/raw", compressed=False)
    splits = load(MNIST(), 0, tmp_path / "data", tmp_path / "cache")
    assert np.array_equal(splits.test()[0][:, 0].numpy(), arrays["t10k"])
    changed = tmp_path / "data/mnist/MNIST/raw/t10k-images-idx3-ubyte"
    changed.write_bytes(idx(255 - arrays["t10k"]))
    os.utime(changed, (2_000_000_000, 2_000_000_000))
    again = load(MNIST(), 0, tmp_path / "data", tmp_path / "cache")
    assert np.array_equal(again.test()[0][:, 0].numpy(), 255 - arrays["t10k"]), "the change was not noticed"


def test_a_damaged_file_is_reported_and_not_changed(tmp_path: Path, small_mnist: dict[str, np.ndarray]) -> None:
    file = tmp_path / "packed" / "train-images-idx3-ubyte.gz"
    damaged = file.read_bytes()[:-1]
    file.write_bytes(damaged)
    shutil.copytree(tmp_path / "packed", tmp_path / "data/mnist")
    with pytest.raises(
        DataError, match=r"mnist: .*train-images-idx3-ubyte\.gz is damaged: its md5 must be \w+ \(got \w+\)"
    ):
        load(MNIST(), 0, tmp_path / "data", tmp_path / "cache")
    assert (tmp_path / "data/mnist" / file.name).read_bytes() == damaged


def test_a_packed_file_that_cannot_be_unpacked_is_a_defect_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    """Their sums are as expected; `gzip.BadGzipFile` is an OSError, but no other node would read more."""
    write_idx_files(tmp_path / "data/mnist", compressed=True)
    damaged = "t10k-labels-idx1-ubyte.gz"
    for content in (
        b"no archive",
        (tmp_path / "data/mnist" / damaged).read_bytes()[:-9],
        gzip.compress(b"x")[:12] + b"zzzzzzzzzzzz",
    ):
        (tmp_path / "data/mnist" / damaged).write_bytes(content)
        names = [name for name, _ in torchvision_datasets.MNIST.resources]
        sums = [(name, hashlib.md5((tmp_path / "data/mnist" / name).read_bytes()).hexdigest()) for name in names]
        monkeypatch.setattr(torchvision_datasets.MNIST, "resources", sums)
        with pytest.raises(DataError, match=rf"mnist: cannot decode {tmp_path}/data/mnist/{damaged} \(") as raised:
            load(MNIST(), 0, tmp_path / "data", tmp_path / "cache")
        assert not isinstance(raised.value, DataUnavailableError)


@pytest.mark.parametrize(
    "content",
    [b"", b"cut", idx(np.zeros((20, 28, 28)))[:-1], b"\1" * 40],
    ids=["empty", "shorter than a header", "a byte short", "another format"],
)
def test_a_plain_file_that_cannot_be_decoded_is_named(tmp_path: Path, offline: None, content: bytes) -> None:
    write_idx_files(tmp_path / "data/mnist", compressed=False)
    damaged = tmp_path / "data/mnist/t10k-images-idx3-ubyte"
    damaged.write_bytes(content)
    with pytest.raises(DataError, match=rf"mnist: cannot decode {damaged} \(") as raised:
        load(MNIST(), 0, tmp_path / "data", tmp_path / "cache")
    assert not isinstance(raised.value, DataUnavailableError)


def test_a_file_that_vanishes_while_it_is_read_may_be_there_on_another_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    write_idx_files(tmp_path / "data/mnist", compressed=False)
    vanishing = tmp_path / "data/mnist/t10k-images-idx3-ubyte"

    def read(path: Any) -> Any:
        vanishing.unlink(missing_ok=True)
        raise RuntimeError("Error downloading t10k-images-idx3-ubyte.gz")

    monkeypatch.setattr("torchvision.datasets.mnist.read_image_file", read)
    with pytest.raises(DataUnavailableError, match=rf"mnist: {tmp_path}/data/mnist cannot be read \(.*No such file"):
        load(MNIST(), 0, tmp_path / "data", tmp_path / "cache")


@pytest.mark.parametrize("dataset", [MNIST(), FashionMNIST(), CIFAR10(), CIFAR100()])
def test_the_error_for_absent_files_without_a_network_says_where_to_put_them(
    tmp_path: Path, dataset: Any, offline: None
) -> None:
    with pytest.raises(DataError) as error:
        load(dataset, 0, tmp_path / "data", tmp_path / "cache")
    message = str(error.value)
    assert dataset.name in message
    assert str(tmp_path / "data" / dataset.name) in message
    assert "no network in this test" in message
    assert "put its files" in message
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


def test_the_error_for_absent_files_without_download_says_that_it_is_off(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="downloading is off"):
        load(CIFAR10(), 0, tmp_path, tmp_path / "cache", download=False)


def test_real_fashion_mnist(tmp_path: Path) -> None:
    if not (REAL / "fashion-mnist").is_dir():
        pytest.skip(f"no Fashion-MNIST in {REAL}; set RUNG_TEST_DATA")
    splits = load(FashionMNIST(), 0, REAL, tmp_path / "cache", download=False)
    images, labels = splits.test()
    assert splits.train_images.shape == (54_000, 1, 28, 28)
    assert torch.bincount(splits.validation_labels).tolist() == [600] * 10
    assert torch.bincount(labels).tolist() == [1000] * 10
    assert splits.class_names[9] == "Ankle boot"
    assert images.shape == (10_000, 1, 28, 28)
    assert splits.mean.item() == pytest.approx(splits.train_images.double().mean().item() / 255, abs=1e-6)


def write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Sixty images in the pickled layout, their md5 sums expected by torchvision, and the archive of it."""
    loader, generator, sums = torchvision_datasets.CIFAR10, np.random.default_rng(0), {}
    base = folder / loader.base_folder
    base.mkdir(parents=True)
    for name, _ in (*loader.train_list, *loader.test_list):
        pixels = generator.integers(0, 256, (10, 3072), dtype=np.uint8)
        (base / name).write_bytes(pickle.dumps({"data": pixels, "labels": list(range(10))}))
    (base / loader.meta["filename"]).write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    for path in base.iterdir():
        sums[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    with tarfile.open(folder / loader.filename, "w:gz") as archive:
        archive.add(base, arcname=loader.base_folder)
    monkeypatch.setattr(loader, "train_list", [[name, sums[name]] for name, _ in loader.train_list])
    monkeypatch.setattr(loader, "test_list", [[name, sums[name]] for name, _ in loader.test_list])
    monkeypatch.setattr(loader, "meta", loader.meta | {"md5": sums["batches.meta"]})
    monkeypatch.setattr(loader, "tgz_md5", hashlib.md5((folder / loader.filename).read_bytes()).hexdigest())
    return pixels.reshape(10, 3, 32, 32)


@pytest.mark.parametrize("packed", [True, False])
def test_cifar_packed_and_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None, packed: bool
) -> None:
    expected = write_cifar(tmp_path / "data/cifar10", monkeypatch)
    if packed:
        shutil.rmtree(tmp_path / "data/cifar10" / torchvision_datasets.CIFAR10.base_folder)
    else:
        (tmp_path / "data/cifar10" / torchvision_datasets.CIFAR10.filename).unlink()
    splits = load(CIFAR10(), 0, tmp_path / "data", tmp_path / "cache")
    assert np.array_equal(splits.test()[0].numpy(), expected)
    assert splits.class_names[2] == "class 2"
    assert splits.mean.shape == (3,)
    assert len(splits.train_images) == 40  # five of each class, the nearest whole share of a tenth is one
    assert len(splits.validation_images) == 10


def test_a_damaged_cifar_batch_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None) -> None:
    write_cifar(tmp_path / "data", monkeypatch)
    (tmp_path / "data" / torchvision_datasets.CIFAR10.filename).unlink()
    with (tmp_path / "data" / torchvision_datasets.CIFAR10.base_folder / "data_batch_3").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="data_batch_3 is damaged"):
        load(CIFAR10(), 0, tmp_path / "data", tmp_path / "cache")
