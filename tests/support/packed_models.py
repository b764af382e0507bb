"""Untrained networks as they are packed, and the data of small pictures."""

from __future__ import annotations

from typing import Any

import torch

from search_spaces.datasets.image_folder.pictures import describe
from search_spaces.normalization import Batch
from workers.models.build import build_model
from workers.models.inference import Classifier
from workers.models.predictor import ModelDescription

#: The beginning of a program for `python -I`: what is installed here except Rung can be imported.
WITHOUT_RUNG = """
import importlib.machinery, importlib.util, sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
sys.path[:] = [path for path in sys.path if not importlib.machinery.PathFinder.find_spec("search_spaces", [path])]
"""
#: Prints how many of the images in the class folders below a folder a model labels correctly, and how many there are.
COUNT_CORRECT = (
    WITHOUT_RUNG
    + """
assert not any(importlib.util.find_spec(name) for name in ("rung", "search_spaces", "service", "workers"))
import mlflow.pyfunc, pathlib
folder, model = sys.argv[1:]
paths = sorted(pathlib.Path(folder).glob("*/*"))
labels = [found["label"] for found in mlflow.pyfunc.load_model(model).predict(paths)]
print(sum(label == path.parent.name for label, path in zip(labels, paths)), len(paths))
"""
)


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
