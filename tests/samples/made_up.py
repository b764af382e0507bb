"""Made-up images: a data set for tests of the training loop that need no file, learnt within a few epochs."""

from __future__ import annotations

import torch
from torch import Tensor

from workers.data import Splits


def never() -> tuple[Tensor, Tensor]:
    raise AssertionError("training asked for the test set")


def splits(train: int = 150, validation: int = 40, channels: int = 1, side: int = 8, classes: int = 4) -> Splits:
    """Noisy copies of one pattern for each class."""
    generator = torch.Generator().manual_seed(1)
    shape = channels, side, side
    patterns = torch.randint(0, 256, (classes, *shape), generator=generator, dtype=torch.uint8)
    labels = torch.arange(train + validation) % classes
    noise = torch.randint(0, 256, (train + validation, *shape), generator=generator, dtype=torch.uint8)
    images = patterns[labels] // 3 * 2 + noise // 3
    unit = images[:train].double() / 255
    return Splits(
        train_images=images[:train],
        train_labels=labels[:train],
        validation_images=images[train:],
        validation_labels=labels[train:],
        mean=unit.mean((0, 2, 3)).float(),
        std=unit.std((0, 2, 3)).float(),
        classes=classes,
        class_names=tuple(f"class {label}" for label in range(classes)),
        load_test=never,
    )
