"""Untrained networks as they are packed, and the data of small pictures."""

from __future__ import annotations

from typing import Any

import torch

from search_spaces.datasets.image_folder.pictures import describe
from search_spaces.normalization import Batch
from workers.models.build import build_model
from workers.models.inference import Classifier
from workers.models.predictor import ModelDescription


def small_model(
    model: Any, classes: int = 10, channels: int = 1, side: int = 8, normalization: Any = None
) -> tuple[Classifier, ModelDescription]:
    """A network with drawn weights, and the description of it. Its classes are "class 0", "class 1" and so on."""
    normalization = normalization or Batch()
    network = build_model(model, normalization, channels, classes, side)
    statistics = torch.full((channels,), 0.4), torch.full((channels,), 0.3)
    description = ModelDescription(
        model=model.model_dump(mode="json"),
        normalization=normalization.model_dump(mode="json"),
        channels=channels,
        image_size=side,
        class_names=tuple(f"class {label}" for label in range(classes)),
        decoding=describe(side, side, channels),
    )
    return Classifier(network, *statistics).eval(), description
