"""Loading and splitting: against numpy, with real files and real decoders."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import shutil
import struct
import tarfile
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets as torchvision_datasets

from search_spaces.datasets import CIFAR10, CIFAR100, MNIST, Digits, FashionMNIST, ImageFolder
from workers import cache, data, stock_data
from workers.data import DataError, channel_statistics, load, stratified_split

REAL = Path(os.environ.get("RUNG_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever torchvision wants to fetch cannot be fetched, and the attempt is quick."""

    def unreachable(*arguments: Any, **options: Any) -> None:
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)


def refuse(*arguments: Any, **options: Any) -> None:
    raise RuntimeError("must not be decoded again")


# splitting


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=200),
    fraction=st.floats(0.01, 0.5),
    seed=st.integers(-(2**40), 2**40),
)
def test_every_class_gives_the_nearest_share(labels: list[int], fraction: float, seed: int) -> None:
    array = np.array(labels)
    train, validation = stratified_split(array, fraction, seed)
    assert sorted([*train, *validation]) == list(range(len(labels))), "every image in exactly one part"
    assert list(train) == sorted(train)
    for label in set(labels):
        size, held_out = (array == label).sum(), (array[validation] == label).sum()
        assert held_out < size
        assert abs(held_out - fraction * size) <= 0.5 or held_out == min(1, size - 1)


def test_the_seed_decides_the_split() -> None:
    labels = np.arange(1000) % 10
    assert np.array_equal(stratified_split(labels, 0.1, 3)[1], stratified_split(labels, 0.1, 3)[1])
    assert not np.array_equal(stratified_split(labels, 0.1, 3)[1], stratified_split(labels, 0.1, 4)[1])


# normalization figures


@given(seed=st.integers(0, 2**32 - 1), channels=st.sampled_from([1, 3]))
def test_statistics_equal_numpys(seed: int, channels: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (7, channels, 5, 4), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), rtol=1e-9)


def test_a_constant_channel_divides_by_no_zero() -> None:
    assert channel_statistics(np.full((3, 1, 2, 2), 9, dtype=np.uint8))[1] == [1 / 255]


def test_the_figures_are_of_the_training_split_alone(tmp_path: Path) -> None:
    splits = load(Digits(), 0, tmp_path, tmp_path / "cache")

    def figures(*parts: torch.Tensor) -> tuple[float, float]:
        pixels = np.concatenate([part.numpy() for part in parts]) / 255
        return float(pixels.mean()), float(pixels.std())

    mean, std = figures(splits.train_images)
    assert splits.mean.item() == pytest.approx(mean, abs=1e-7)
    assert splits.std.item() == pytest.approx(std, abs=1e-7)
    assert splits.mean.dtype == splits.std.dtype == torch.float32
    leaks = {
        "validation": figures(splits.train_images, splits.validation_images),
        "test": figures(splits.train_images, splits.test()[0]),
    }
    for part, (leaked_mean, leaked_std) in leaks.items():
        assert abs(leaked_mean - mean) + abs(leaked_std - std) > 1e-5, f"this test could not see a leak of {part}"
        assert splits.mean.item() != pytest.approx(leaked_mean, abs=1e-7) or splits.std.item() != pytest.approx(
            leaked_std, abs=1e-7
        )


def test_changing_validation_or_test_pixels_changes_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The strong form: blacken every image outside the training split, decode again, compare."""
    plain = load(Digits(), 5, tmp_path, tmp_path / "plain")
    digits = load_digits()
    outside = np.arange(1797) % 5 == 4
    training = np.flatnonzero(~outside)
    outside[training[stratified_split(digits.target[training], 0.1, 5)[1]]] = True
    digits.images[outside] = 0
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: digits)
    blackened = load(Digits(), 5, tmp_path, tmp_path / "blackened")
    assert blackened.validation_images.sum() == blackened.test()[0].sum() == 0
    assert torch.equal(plain.train_images, blackened.train_images)
    assert torch.equal(plain.mean, blackened.mean)
    assert torch.equal(plain.std, blackened.std)


# digits


def test_digits_are_scikit_learns(tmp_path: Path) -> None:
    splits, source = load(Digits(validation_fraction=0.2), 1, tmp_path, tmp_path / "cache"), load_digits()
    test_images, test_labels = splits.test()
    assert (splits.classes, splits.class_names) == (10, tuple("0123456789"))
    assert splits.train_images.dtype == test_images.dtype == torch.uint8
    assert splits.train_labels.dtype == test_labels.dtype == torch.int64
    assert test_images.shape == (359, 1, 8, 8)
    assert np.array_equal(test_labels.numpy(), source.target[4::5])
    np.testing.assert_allclose(test_images[:, 0].numpy() / 255 * 16, source.images[4::5], atol=0.04)
    rest = torch.cat([splits.train_images, splits.validation_images])
    expected = np.rint(np.delete(source.images, np.s_[4::5], axis=0) * 255 / 16)
    assert sorted(image.numpy().tobytes() for image in rest) == sorted(e.astype(np.uint8).tobytes() for e in expected)
    assert abs(len(splits.validation_images) - 0.2 * len(rest)) < 5


def test_the_second_load_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(Digits(), 0, tmp_path, tmp_path / "cache")
    monkeypatch.setattr(stock_data, "decode", refuse)
    again = load(Digits(), 0, tmp_path, tmp_path / "cache")
    assert torch.equal(first.train_images, again.train_images)
    assert torch.equal(first.mean, again.mean)


def test_another_seed_decodes_nothing_but_splits_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(Digits(), 0, tmp_path, tmp_path / "cache")
    monkeypatch.setattr(stock_data, "decode", refuse)
    other = load(Digits(), 1, tmp_path, tmp_path / "cache")
    assert not torch.equal(first.validation_images, other.validation_images)
    assert torch.equal(first.test()[0], other.test()[0])


def test_splits_idle_for_long_are_deleted(tmp_path: Path) -> None:
    for seed in range(data.KEPT_SPLITS + 3):
        load(Digits(), seed, tmp_path, tmp_path / "cache")
        for manifest in (tmp_path / "cache").glob(f"split-*/{cache.MANIFEST}"):
            os.utime(manifest, (1_000_000 + seed,) * 2)
    assert len([path for path in (tmp_path / "cache").glob("split-*") if path.is_dir()]) == data.KEPT_SPLITS


# the MNIST family


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx_files(folder: Path, *, packed: bool) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    arrays = {}
    for part, n in (("train", 40), ("t10k", 20)):
        arrays[part] = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        for name, array in (("images-idx3", arrays[part]), ("labels-idx1", np.arange(n) % 10)):
            path = folder / f"{part}-{name}-ubyte{'.gz' * packed}"
            path.write_bytes(gzip.compress(idx(array), mtime=0) if packed else idx(array))
    return arrays


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline: None) -> dict[str, np.ndarray]:
    """Forty packed pictures whose md5 sums torchvision is told to expect."""
    arrays = write_idx_files(tmp_path / "packed", packed=True)
    names = [name for name, _ in torchvision_datasets.MNIST.resources]
    sums = [(name, hashlib.md5((tmp_path / "packed" / name).read_bytes()).hexdigest()) for name in names]
    monkeypatch.setattr(torchvision_datasets.MNIST, "resources", sums)
    return arrays


@pytest.mark.parametrize("layout", ["mnist/MNIST/raw", "mnist/raw", "mnist", "MNIST/raw", ""])
def test_packed_files_in_a_read_only_root(tmp_path: Path, small_mnist: dict[str, np.ndarray], layout: str) -> None:
    root = tmp_path / "data"
    (root / layout).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(tmp_path / "packed", root / layout, dirs_exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for path in [root, *before]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    splits = load(MNIST(), 0, root, tmp_path / "cache")
    assert np.array_equal(splits.test()[0][:, 0].numpy(), small_mnist["t10k"])
    assert len(splits.train_images) + len(splits.validation_images) == 40
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before, "the data root is only read"
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_symlink() or "ubyte" in path.name]
    assert not left, "what was unpacked is removed"
    for path in [root, *before]:
        path.chmod(0o755)


def test_unpacked_files(tmp_path: Path, offline: None) -> None:
    arrays = write_idx_files(tmp_path / "data/mnist/MNIST/raw", packed=False)
    splits = load(MNIST(), 0, tmp_path / "data", tmp_path / "cache")
    assert np.array_equal(splits.test()[0][:, 0].numpy(), arrays["t10k"])
    changed = tmp_path / "data/mnist/MNIST/raw/t10k-images-idx3-ubyte"
    changed.write_bytes(idx(255 - arrays["t10k"]))
    os.utime(changed, (2_000_000_000, 2_000_000_000))
    again = load(MNIST(), 0, tmp_path / "data", tmp_path / "cache")
    assert np.array_equal(again.test()[0][:, 0].numpy(), 255 - arrays["t10k"]), "other content, other entry"


def test_a_damaged_file_is_named_and_left_alone(tmp_path: Path, small_mnist: dict[str, np.ndarray]) -> None:
    file = tmp_path / "packed" / "train-images-idx3-ubyte.gz"
    damaged = file.read_bytes()[:-1]
    file.write_bytes(damaged)
    shutil.copytree(tmp_path / "packed", tmp_path / "data/mnist")
    with pytest.raises(DataError, match=r"mnist: .*train-images-idx3-ubyte\.gz is damaged: md5 \w+ required, got \w+"):
        load(MNIST(), 0, tmp_path / "data", tmp_path / "cache")
    assert (tmp_path / "data/mnist" / file.name).read_bytes() == damaged


@pytest.mark.parametrize("dataset", [MNIST(), FashionMNIST(), CIFAR10(), CIFAR100()])
def test_absent_data_without_network(tmp_path: Path, dataset: Any, offline: None) -> None:
    with pytest.raises(DataError) as error:
        load(dataset, 0, tmp_path / "data", tmp_path / "cache")
    message = str(error.value)
    assert dataset.name in message
    assert str(tmp_path / "data" / dataset.name) in message
    assert "no network in this test" in message
    assert "put its files" in message
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


def test_no_download_where_it_is_off(tmp_path: Path) -> None:
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


# CIFAR


def write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Sixty pictures in the pickled layout, their md5 sums expected by torchvision, and the archive of it."""
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


def test_a_damaged_cifar_batch_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None) -> None:
    write_cifar(tmp_path / "data", monkeypatch)
    (tmp_path / "data" / torchvision_datasets.CIFAR10.filename).unlink()
    with (tmp_path / "data" / torchvision_datasets.CIFAR10.base_folder / "data_batch_3").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="data_batch_3 is damaged"):
        load(CIFAR10(), 0, tmp_path / "data", tmp_path / "cache")


# image folders


def paint(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (12, 12), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path)


def two_classes(root: Path, n: int = 10) -> None:
    for index in range(n):
        paint(root / "red" / f"{index}.png", (255, index, 0))
        paint(root / "blue" / f"{index}.png", (0, index, 255))


def folder(path: str = "pictures", **fields: Any) -> ImageFolder:
    return ImageFolder.model_validate({"name": "image_folder", "path": path, "size": 8, **fields})


def test_an_image_folder(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures")
    splits = load(folder(), 0, tmp_path, tmp_path / "cache")
    assert splits.class_names == ("blue", "red")
    assert splits.train_images.shape == (16, 3, 8, 8)
    assert splits.validation_images.shape == splits.test()[0].shape == (2, 3, 8, 8)
    for images, labels in ((splits.train_images, splits.train_labels), splits.test()):
        assert torch.equal(images[:, 0, 0, 0] == 255, labels == 1)
        assert torch.equal(images[:, 2, 0, 0] == 255, labels == 0)
    seen = torch.cat([splits.train_images, splits.validation_images, splits.test()[0]])
    assert len({(int(a), int(b)) for a, b in seen[:, :2, 0, 0]}) == 20, "every picture once"
    assert splits.notes == ()


def test_grey_pictures_and_odd_modes(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures")
    for index, mode in enumerate(["L", "P", "RGBA", "LA", "1", "CMYK"]):
        suffix = "tif" if mode == "CMYK" else "png"
        paint(tmp_path / "pictures/red" / f"mode{index}.{suffix}", (255, 255, 255), mode=mode)
    sixteen = Image.fromarray(np.full((12, 12), 65535, dtype=np.uint16))
    sixteen.save(tmp_path / "pictures/red/sixteen.png")
    half = Image.fromarray(np.full((12, 12), 32768, dtype=np.uint16))
    half.save(tmp_path / "pictures/red/half.png")
    splits = load(folder(color="grey"), 0, tmp_path, tmp_path / "cache")
    images = torch.cat([splits.train_images, splits.validation_images, splits.test()[0]])
    assert images.shape[1:] == (1, 8, 8)
    assert int((images[:, 0, 0, 0] == 255).sum()) == 7
    assert int((images[:, 0, 0, 0] == 127).sum()) == 1


def test_given_train_and_test_folders(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures/train")
    two_classes(tmp_path / "pictures/test", 3)
    splits = load(folder(), 0, tmp_path, tmp_path / "cache")
    assert len(splits.train_images) + len(splits.validation_images) == 20
    assert torch.bincount(splits.test()[1]).tolist() == [3, 3]
    paint(tmp_path / "pictures/test/green/0.png", (0, 255, 0))
    with pytest.raises(DataError, match=r"class green of .* is not among"):
        load(folder(), 0, tmp_path, tmp_path / "cache")


def test_damaged_pictures_are_named_all_at_once(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures")
    whole = (tmp_path / "pictures/red/0.png").read_bytes()
    (tmp_path / "pictures/red/cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pictures/blue/empty.jpg").write_bytes(b"")
    (tmp_path / "pictures/blue/text.png").write_text("no picture")
    with pytest.raises(DataError, match="3 damaged pictures") as error:
        load(folder(), 0, tmp_path, tmp_path / "cache")
    for name in ("red/cut.png", "blue/empty.jpg", "blue/text.png"):
        assert name in str(error.value)
    for name in ("red/cut.png", "blue/empty.jpg", "blue/text.png"):
        (tmp_path / "pictures" / name).unlink()
    assert load(folder(), 0, tmp_path, tmp_path / "cache").classes == 2, "mended, it loads"


def test_odd_files_are_named_in_notes(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures", 20)
    paint(tmp_path / "pictures/red/wide.png", (255, 0, 0), (60, 12))
    paint(tmp_path / "pictures/red/large.png", (255, 0, 0), (24, 24))
    (tmp_path / "pictures/red/readme.txt").write_text("about")
    splits = load(folder(), 0, tmp_path, tmp_path / "cache")
    assert len(splits.notes) == 2
    assert "red/readme.txt" in splits.notes[0]
    assert "red/wide.png (60x12)" in splits.notes[1]
    assert "red/large.png (24x24)" in splits.notes[1]
    assert load(folder(), 0, tmp_path, tmp_path / "cache").notes == splits.notes


def test_what_was_decoded_of_a_folder_before_its_changes_is_deleted_when_idle(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures")
    two_classes(tmp_path / "others")
    load(folder("others"), 0, tmp_path, tmp_path / "cache")
    for change in range(data.KEPT_SPLITS + 2):
        paint(tmp_path / f"pictures/red/new{change}.png", (255, 99, 0))
        load(folder(), 0, tmp_path, tmp_path / "cache")
        for manifest in (tmp_path / "cache").glob(f"*/{cache.MANIFEST}"):
            os.utime(manifest, (1_000_000 + change,) * 2)
    left = [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len([name for name in left if name.startswith("folder-")]) == data.KEPT_SOURCES + 1, "and the other folder"
    assert len([name for name in left if name.startswith("split-")]) == data.KEPT_SPLITS + 1


def test_a_changed_folder_is_decoded_again(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures")
    load(folder(), 0, tmp_path, tmp_path / "cache")
    paint(tmp_path / "pictures/red/new.png", (255, 99, 0))
    splits = load(folder(), 0, tmp_path, tmp_path / "cache")
    assert len(splits.train_images) + len(splits.validation_images) + len(splits.test()[0]) == 21


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "no folder .*pictures"),
        (lambda root: paint(root / "one/0.png", (1, 2, 3)), "two or more class folders required"),
        (lambda root: [paint(root / "one/0.png", (1, 2, 3)), (root / "two").mkdir()], "no pictures in .*two"),
    ],
)
def test_a_folder_without_pictures(tmp_path: Path, prepare: Any, message: str) -> None:
    prepare(tmp_path / "pictures")
    with pytest.raises(DataError, match=message):
        load(folder(), 0, tmp_path, tmp_path / "cache")
