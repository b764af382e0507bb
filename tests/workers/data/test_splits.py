"""Loading and splitting, compared with numpy, with real files and decoders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from search_spaces.datasets import Digits
from search_spaces.datasets.digits import DigitsReader
from workers.data import cache, splits
from workers.data.splits import channel_statistics, load, stratified_split
from workers.data.subset import Subset


def refuse(*arguments: Any, **options: Any) -> None:
    raise RuntimeError("must not be decoded again")


# splitting


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=200),
    fraction=st.floats(0.01, 0.5),
    seed=st.integers(-(2**40), 2**40),
)
def test_every_class_has_its_share_in_the_validation_split(labels: list[int], fraction: float, seed: int) -> None:
    array = np.array(labels)
    train, validation = stratified_split(array, fraction, seed)
    assert sorted([*train, *validation]) == list(range(len(labels))), "every image must be in exactly one part"
    assert list(train) == sorted(train)
    for label in set(labels):
        size, held_out = (array == label).sum(), (array[validation] == label).sum()
        assert held_out < size
        assert abs(held_out - fraction * size) <= 0.5 or held_out == min(1, size - 1)


def test_the_seed_decides_the_split() -> None:
    labels = np.arange(1000) % 10
    assert np.array_equal(stratified_split(labels, 0.1, 3)[1], stratified_split(labels, 0.1, 3)[1])
    assert not np.array_equal(stratified_split(labels, 0.1, 3)[1], stratified_split(labels, 0.1, 4)[1])


# means and deviations


@given(seed=st.integers(0, 2**32 - 1), channels=st.sampled_from([1, 3]))
def test_statistics_equal_numpys(seed: int, channels: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (7, channels, 5, 4), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), rtol=1e-9)


def test_a_constant_channel_does_not_divide_by_zero() -> None:
    assert channel_statistics(np.full((3, 1, 2, 2), 9, dtype=np.uint8))[1] == [1 / 255]


def test_mean_and_deviation_are_those_of_the_training_split_only(tmp_path: Path) -> None:
    splits = load(Digits(), 0, tmp_path, tmp_path / "cache")

    def statistics(*parts: torch.Tensor) -> tuple[float, float]:
        pixels = np.concatenate([part.numpy() for part in parts]) / 255
        return float(pixels.mean()), float(pixels.std())

    mean, std = statistics(splits.train_images)
    assert splits.mean.item() == pytest.approx(mean, abs=1e-7)
    assert splits.std.item() == pytest.approx(std, abs=1e-7)
    assert splits.mean.dtype == splits.std.dtype == torch.float32
    leaks = {
        "validation": statistics(splits.train_images, splits.validation_images),
        "test": statistics(splits.train_images, splits.test()[0]),
    }
    for part, (leaked_mean, leaked_std) in leaks.items():
        assert abs(leaked_mean - mean) + abs(leaked_std - std) > 1e-5, f"this test cannot detect a leak of {part}"
        assert splits.mean.item() != pytest.approx(leaked_mean, abs=1e-7) or splits.std.item() != pytest.approx(
            leaked_std, abs=1e-7
        )


def test_validation_and_test_pixels_do_not_change_mean_and_deviation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image outside the training split is made black and decoded again."""
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


def test_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
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
    assert len(rest) == Digits.training_images
    assert abs(len(splits.validation_images) - 0.2 * len(rest)) < 5


def test_the_second_load_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(Digits(), 0, tmp_path, tmp_path / "cache")
    monkeypatch.setattr(DigitsReader, "decode", refuse)
    again = load(Digits(), 0, tmp_path, tmp_path / "cache")
    assert torch.equal(first.train_images, again.train_images)
    assert torch.equal(first.mean, again.mean)


def test_another_seed_decodes_nothing_and_splits_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(Digits(), 0, tmp_path, tmp_path / "cache")
    monkeypatch.setattr(DigitsReader, "decode", refuse)
    other = load(Digits(), 1, tmp_path, tmp_path / "cache")
    assert not torch.equal(first.validation_images, other.validation_images)
    assert torch.equal(first.test()[0], other.test()[0])


def test_splits_that_were_not_used_for_long_are_deleted(tmp_path: Path) -> None:
    for seed in range(splits.KEPT_SPLITS + 3):
        load(Digits(), seed, tmp_path, tmp_path / "cache")
        for manifest in (tmp_path / "cache").glob(f"split-*/{cache.MANIFEST}"):
            os.utime(manifest, (1_000_000 + seed,) * 2)
    assert len([path for path in (tmp_path / "cache").glob("split-*") if path.is_dir()]) == splits.KEPT_SPLITS


def test_images_are_on_disk_once_whatever_the_seed(tmp_path: Path) -> None:
    first = load(Digits(), 0, tmp_path, tmp_path / "cache")
    (decoded,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir() and "split" not in path.name)
    for seed in range(1, 4):
        load(Digits(), seed, tmp_path, tmp_path / "cache")
    stored = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.*"))
    assert stored < 1.8 * sum(path.stat().st_size for path in decoded.iterdir()), "indices and labels are small"
    assert 0.95 * stored < cache.size_bytes(tmp_path / "cache") <= stored
    assert len(first.train_images) + len(first.validation_images) == Digits.training_images


def test_a_subset_is_read_like_a_tensor_of_its_images(tmp_path: Path) -> None:
    images = torch.arange(60, dtype=torch.uint8).reshape(10, 1, 2, 3)
    chosen = torch.tensor([1, 3, 4, 8])
    subset, tensor = Subset(images, chosen), images[chosen]
    assert (len(subset), subset.shape, subset.dtype, subset.nbytes) == (4, tensor.shape, tensor.dtype, tensor.nbytes)
    for key in (0, -1, slice(1, 3), [2, 0], torch.tensor([3, 1])):
        assert torch.equal(subset[key], tensor[key])
    assert torch.equal(subset[:, 0, 1], tensor[:, 0, 1])
    assert torch.equal(subset.index_select(0, torch.tensor([2, 2])), tensor[[2, 2]])
    assert torch.equal(torch.cat([subset, subset]), torch.cat([tensor, tensor]))
    assert subset.double().mean() == tensor.double().mean()
    assert subset.to(torch.device("cpu")) is subset
    assert torch.equal(subset.to(torch.float32), tensor.to(torch.float32))
