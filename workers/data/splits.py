"""Data: image sets as tensors, split into training, validation and test.

A data set is decoded once per node into the cache (`workers.data.cache`); each split of it is a second entry of
indices, so that images are on disk once and trials share their pages. The validation split is cut from the training
set only, unless the data set brings its own, and the mean and deviation that normalize the input come from what is
left. This module is the data boundary: whatever goes wrong while data are read is a DataError, and a
DataUnavailableError where another node may be able to read them. It must not know models, devices or augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.datasets import shares
from search_spaces.datasets.base import DataError, DatasetSpec, DataUnavailableError, RecognizableReader
from search_spaces.phrases import counted
from workers.data import cache
from workers.data.digest import digest
from workers.data.subset import Subset

__all__ = ["DataError", "Splits", "load"]

KEPT_SPLITS = 8  # of one data set on a node; older ones that are idle are deleted
KEPT_SOURCES = 3  # of a data set that changes: contents before a change, or in another size


@dataclass(frozen=True)
class Splits:
    """A data set split for training. Images are uint8 [N, C, H, W], labels int64 [N].

    `mean` and `std` (float32 [C]) are those of pixel / 255 over the training split only; `std` is at least one
    gray level, so that a constant channel does not divide by zero. `notes` lists files that were skipped or
    look unusual, and sets that are too small. Images for training and validation may be a `Subset`, which takes the
    place of a tensor. `decoding` describes how an encoded image becomes such an image: the argument of
    `search_spaces.datasets.image_folder.pictures.decode`. `facts` is what else the reader told, `digests` are those of
    `train` and `validation`. The tensors are backed by files that trials of one node share in memory.
    """

    train_images: Tensor
    train_labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    mean: Tensor
    std: Tensor
    classes: int
    class_names: tuple[str, ...]
    load_test: Callable[[], tuple[Tensor, Tensor]] = field(repr=False, compare=False)
    notes: tuple[str, ...] = ()
    decoding: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict, repr=False)
    digests: dict[str, str] = field(default_factory=dict, repr=False)

    def test(self) -> tuple[Tensor, Tensor]:
        """Images and labels of the test set, which no trial reads. Raises DataError."""
        return self.load_test()


def load(
    dataset: DatasetSpec,
    split_seed: int,
    data_root: Path,
    cache_root: Path,
    *,
    download: bool = True,
    every_file: bool = False,
) -> Splits:
    """The data set, from the cache if it is there.

    Files are looked for in `data_root/<name>`, then in `data_root`, which is never written. If there are none,
    data sets that torchvision knows are downloaded into the cache, provided that `download` is set. With `every_file`,
    the status of each is looked at also where a few would do, because all were looked at lately. Raises DataError.
    """
    data_root, cache_root = Path(data_root).expanduser(), Path(cache_root).expanduser()
    with _data_errors(dataset, data_root):
        source = _decoded(dataset, data_root, cache_root, download, every_file)
        split = _split(source, dataset.validation_fraction, split_seed, cache_root)
        names = tuple(source.facts["class_names"])
        parts = _parts(source, split)

        def load_test() -> tuple[Tensor, Tensor]:
            with _data_errors(dataset, data_root):
                return _tensor(source, "test_images"), _tensor(source, "test_labels")

        return Splits(
            train_images=parts["train"][0],
            train_labels=parts["train"][1],
            validation_images=parts["validation"][0],
            validation_labels=parts["validation"][1],
            mean=torch.tensor(split.facts["mean"], dtype=torch.float32),
            std=torch.tensor(split.facts["std"], dtype=torch.float32),
            classes=len(names),
            class_names=names,
            load_test=load_test,
            notes=(
                *source.facts.get("notes", ()),
                *_notes(source, dataset.validation_fraction, parts["validation"][1]),
            ),
            decoding=source.facts.get("decoding") or _decoding_of(source),
            facts=source.facts,
            digests=split.facts["digests"],
        )


def stratified_split(labels: NDArray[np.int64], fraction: float, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Indices of the training and of the validation part, ascending: the nearest whole share of each class.

    A class of two images or more is in both parts; a single image stays in training.
    """
    generator = np.random.default_rng(seed % 2**64)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        held_out[generator.permutation(mine)[: shares.held_out(len(mine), fraction)]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def channel_statistics(
    images: NDArray[np.uint8], indices: NDArray[np.int64] | None = None
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of pixel / 255 of each channel of [N, C, H, W], exact: from counts of levels.

    Of the images at `indices` if they are given.
    """
    channels = images.shape[1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for start in range(0, len(images) if indices is None else len(indices), 4096):
        chosen = images[start : start + 4096] if indices is None else images[indices[start : start + 4096]]
        for channel in range(channels):
            counts[channel] += np.bincount(chosen[:, channel].reshape(-1), minlength=256)
    levels = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ levels
    std = np.sqrt((shares * (levels - mean[:, None]) ** 2).sum(axis=1))
    return mean.tolist(), np.maximum(std, 1 / 255).tolist()


@contextmanager
def _data_errors(dataset: DatasetSpec, data_root: Path) -> Iterator[None]:
    """Turn what readers, decoders and the cache raise into DataErrors, except a lack of memory.

    An error of the operating system, the network or a disk is one of this node.
    """
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        named = isinstance(error, OSError) and error.filename  # a file, perhaps of the cache
        place = "" if named else f" from {data_root}"
        kind = DataUnavailableError if isinstance(error, OSError) else DataError
        raise kind(f"{dataset.name}: cannot be read{place}: {str(error) or type(error).__name__}") from error


def _decoded(dataset: DatasetSpec, data_root: Path, cache_root: Path, download: bool, every_file: bool) -> cache.Entry:
    """The entry of the content that the files have now. Raises DataUnavailableError if they change while they are
    decoded: an entry must hold what its key says, also once the files are as before."""
    reader = dataset.reader(data_root)
    prefix = "" if reader.replaces is None else f"folder-{cache.key_of(reader.replaces)}-"
    signs = cache.key_of(reader.signs()) if prefix and isinstance(reader, RecognizableReader) else None
    known = signs and not every_file and cache.recall(cache_root, prefix, signs)
    if known and (found := cache.find(cache_root, known)):
        return found
    identity = reader.identity()

    def build(draft: cache.Draft) -> dict[str, Any]:
        facts = reader.decode(draft, download=download)
        if not _is_still(identity, dataset, data_root):
            raise DataUnavailableError(
                f"{dataset.name}: the files in {dataset.folder(data_root) or data_root} changed while they were read; "
                "try again once nothing changes them"
            )
        if prefix:
            cache.prune(cache_root, prefix, keep=KEPT_SOURCES - 1)
            cache.prune(cache_root, f"split-{prefix}", keep=KEPT_SPLITS - 1)
        return facts

    key = prefix + cache.key_of(*identity)
    found = cache.entry(cache_root, key, build)
    if signs and not found.facts.get("skipped"):  # a damaged file that is repaired must be noticed at once
        cache.remember(cache_root, prefix, signs, key)
    return found


def _is_still(identity: list[Any], dataset: DatasetSpec, data_root: Path) -> bool:
    """Whether the files that are found now have this identity."""
    try:
        return dataset.reader(data_root).identity() == identity
    except DataError:  # such as a folder that is absent now
        return False


def _notes(source: cache.Entry, fraction: float, validation_labels: Tensor) -> Iterator[str]:
    """What a person should know of the sizes of the sets."""
    names = source.facts["class_names"]

    def counts(labels: NDArray[np.int64]) -> list[int]:
        found: list[int] = np.bincount(labels, minlength=len(names)).tolist()
        return found

    if not source.facts.get("has_validation"):
        yield from shares.notes_of_cut(counts(source.array("train_labels")), fraction)
    yield from shares.notes("validation", names, counts(validation_labels.numpy()))
    yield from shares.notes("test", names, counts(source.array("test_labels")))


def _decoding_of(source: cache.Entry) -> dict[str, Any]:
    """For a data set that is not stored as image files: images of the same size and color, resized if need be."""
    from search_spaces.datasets.image_folder.pictures import describe

    _, channels, height, width = source.array("train_images").shape
    return describe(height, width, channels)


def _split(source: cache.Entry, fraction: float, seed: int, cache_root: Path) -> cache.Entry:
    """The entry with the indices of the split, the digests of its parts, and the mean and deviation for training."""
    prefix = f"split-{source.path.name}"
    brings_validation = bool(source.facts.get("has_validation"))

    def build(draft: cache.Draft) -> dict[str, Any]:
        images, labels = source.array("train_images"), source.array("train_labels")
        if brings_validation:
            parts = {"train": np.arange(len(labels))}
        else:
            parts = dict(zip(("train", "validation"), stratified_split(labels, fraction, seed), strict=True))
        for part, indices in parts.items():
            if len(indices) == 0:
                raise DataError(
                    f"the {part} split has no image: {counted(len(labels), 'image')} with "
                    f"validation_fraction={fraction}"
                )
            draft.create_array(f"{part}_indices", indices.shape, np.int64)[:] = indices
        mean, std = channel_statistics(images, parts["train"])
        digests = {part: digest(images, labels, indices) for part, indices in parts.items()}
        if brings_validation:
            digests["validation"] = digest(source.array("validation_images"), source.array("validation_labels"))
        cache.prune(cache_root, prefix, keep=KEPT_SPLITS - 1)
        return {"mean": mean, "std": std, "digests": digests}

    choice = ["validation folder"] if brings_validation else ["indices", fraction, seed]
    return cache.entry(cache_root, f"{prefix}-{cache.key_of('digests', *choice)}", build)


def _parts(source: cache.Entry, split: cache.Entry) -> dict[str, tuple[Any, Tensor]]:
    """Images and labels for training and validation."""
    images, labels = _tensor(source, "train_images"), _tensor(source, "train_labels")
    if source.facts.get("has_validation"):
        validation = _tensor(source, "validation_images"), _tensor(source, "validation_labels")
        return {"train": (images, labels), "validation": validation}
    indices = {part: _tensor(split, f"{part}_indices") for part in ("train", "validation")}
    return {part: (Subset(images, chosen), labels[chosen]) for part, chosen in indices.items()}


def _tensor(entry: cache.Entry, name: str) -> Tensor:
    return torch.from_numpy(entry.array(name))
