"""Image folders of two classes as a data set, and what is read from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from search_spaces.datasets import ImageFolder
from tests.support.odd_pictures import patterned
from workers.data.splits import Splits


def folder(**fields: Any) -> ImageFolder:
    return ImageFolder.model_validate({"name": "image_folder", "path": "pictures", "size": 12, **fields})


def two_classes(root: Path, save: Callable[[Path, Any], None], low: Any, high: Any, suffix: str = "png") -> None:
    """Ten images each: `left` is dark at the left, `right` at the right."""
    for index in range(10):
        values = patterned(index, low, high)
        save(root / "left" / f"{index}.{suffix}", values)
        save(root / "right" / f"{index}.{suffix}", values[:, ::-1])


def everything(splits: Splits) -> torch.Tensor:
    return torch.cat([splits.train_images, splits.validation_images, splits.test()[0]])
