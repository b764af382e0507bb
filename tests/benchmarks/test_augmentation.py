"""The cost of augmentation: relative to epochs of narrow and wide ResNet-9s, and compared with torchvision transforms
that a DataLoader applies to one image at a time.

Both sides of each ratio are measured alternately in one run, on the same images and the same number of cores. The
fastest of several turns counts, because other load on the machine only adds time.
Run: pytest tests/benchmarks/test_augmentation.py --override-ini addopts=--import-mode=importlib -s
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchvision.transforms import InterpolationMode, v2

from search_spaces.augmentation import AugmentationSpec
from search_spaces.experiment import ExperimentSpec
from tests.support.trainings import EVERY_AUGMENTATION
from workers.data.splits import Splits
from workers.training.augment import Augmentation
from workers.training.loop import Training
from workers.training.random_streams import random_stream

BATCH = 128
LIMIT = 0.15  # of an epoch without augmentation
CORES = len(os.sched_getaffinity(0))


def fastest(*sides: Callable[[], object], turns: int) -> list[float]:
    """For each side, the seconds of the fastest of `turns` calls. The sides alternate, after a warm-up call of each."""
    best = [float("inf")] * len(sides)
    for turn in range(turns + 1):
        for number, side in enumerate(sides):
            started = time.perf_counter()
            side()
            if turn:
                best[number] = min(best[number], time.perf_counter() - started)
    return best


@pytest.mark.parametrize(("width", "images"), [(8, 6144), (16, 3072), (64, 384)])
def test_all_augmentations_add_little_to_a_resnet9_epoch(width: int, images: int, fashion: Splits) -> None:
    few = dataclasses.replace(
        fashion,
        train_images=fashion.train_images[:images],
        train_labels=fashion.train_labels[:images],
        validation_images=fashion.validation_images[:BATCH],
        validation_labels=fashion.validation_labels[:BATCH],
    )

    def training(augmentation: dict[str, float]) -> Training:
        spec = ExperimentSpec.model_validate(
            {
                "name": "benchmark",
                "dataset": "fashion_mnist",
                "search_space": {
                    "model": {"kind": "resnet", "depth": 9, "width": width},
                    "augmentation": augmentation,
                    "batch_size": BATCH,
                },
            }
        )
        return Training(spec.bind({}), few, "cpu")

    plain, augmented = training({}), training(EVERY_AUGMENTATION)
    without, with_all = fastest(plain._train, augmented._train, turns=3)
    added = with_all / without - 1
    print(
        f"\nResNet-9 (width {width}), Fashion-MNIST, batch {BATCH}, {torch.get_num_threads()} threads: "
        f"{images / without:.0f} images/s plain, {images / with_all:.0f} with all augmentations: {added:+.1%}"
    )
    assert added <= LIMIT


def image_by_image() -> v2.Compose:
    return v2.Compose(
        [
            v2.RandomCrop(28, padding=2),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomAffine(15, (0.1, 0.1), (0.9, 1.1), 5, interpolation=InterpolationMode.BILINEAR),
            v2.ColorJitter(brightness=0.2, contrast=0.2),
            v2.RandomAdjustSharpness(1.3, p=1.0),
        ]
    )


class Augmented(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """As in a common training script: each image is transformed when it is loaded."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.source, self.transform = TensorDataset(images, labels), image_by_image()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.source[index]
        return self.transform(image.float() / 255), label


def mixed(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return v2.MixUp(alpha=0.4, num_classes=10)(*default_collate(samples))


def test_batched_augmentation_is_many_times_faster_than_image_by_image(fashion: Splits) -> None:
    n = 2048
    images, labels = fashion.train_images[:n].clone(), fashion.train_labels[:n].clone()
    augmentation = Augmentation(AugmentationSpec(**EVERY_AUGMENTATION), 28, "cpu")
    generator = torch.Generator().manual_seed(0)

    def ours() -> None:
        epoch = augmentation.epoch(n, partial(random_stream, 0, 1))
        for number, indices in enumerate(torch.randperm(n, generator=generator).split(BATCH)):
            batch = epoch.change(images[indices].float() / 255, number * BATCH)
            epoch.mix(batch, torch.nn.functional.one_hot(labels[indices], 10).float())

    def loader(workers: int) -> Callable[[], None]:
        source = DataLoader(
            Augmented(images, labels),
            BATCH,
            shuffle=True,
            collate_fn=mixed,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

        def epoch() -> None:
            for _ in source:
                pass

        return epoch

    batched, single, pooled = fastest(ours, loader(0), loader(CORES), turns=3)
    ratio = min(single, pooled) / batched
    print(
        f"\nAll augmentations on {n} images of 28x28: {n / batched:,.0f} images/s batched "
        f"on {torch.get_num_threads()} threads; image by image {n / single:,.0f}, "
        f"with {CORES} loader processes {n / pooled:,.0f}: {ratio:.1f} times faster"
    )
    assert ratio >= 8
