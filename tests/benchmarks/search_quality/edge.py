"""Curves whose best configurations lie next to those that diverge, as high learning rates do."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.experiment import SearchSpace

NAME = "edge"
EPOCHS = 20
#: The common logarithm of the rate beyond which momentum 0 diverges; momentum multiplies the rate.
EDGE = -0.5
SPACE = SearchSpace.model_validate(
    {
        "optimizer": {"kind": "sgd", "lr": {"loguniform": [1e-4, 10.0]}, "momentum": {"uniform": [0.0, 0.95]}},
        "model": {"kind": "cnn", "width": {"log_int_range": [8, 64]}, "dropout": {"uniform": [0.0, 0.6]}},
        "label_smoothing": {"uniform": [0.0, 0.3]},
    }
)


class EdgeTask:
    """The accuracy rises up to the edge, and behind it a network diverges in its first epoch or soon after it."""

    name = NAME
    space = SPACE
    epochs = EPOCHS
    best = 0.95
    median = 0.75  # of a random configuration that trains all epochs, one that diverged counting as 0: about

    def curve(self, configuration: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        optimizer, model = configuration["optimizer"], configuration["model"]
        beyond = math.log10(optimizer["lr"]) - 0.5 * math.log10(1 - optimizer["momentum"]) - EDGE
        digest = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).digest()
        noise = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        epochs = np.arange(1, EPOCHS + 1)
        error = 0.05 + 0.08 * max(-beyond, 0.0) + 0.02 * math.log(64 / model["width"]) / math.log(8)
        error += 0.1 * (model["dropout"] - 0.2) ** 2 + 0.1 * (configuration["label_smoothing"] - 0.1) ** 2
        values = 1 - error - 0.5 * np.exp(-epochs / 4) + noise.normal(0, 0.004, EPOCHS)
        if beyond > 0:
            values[0 if beyond > 0.3 else 1 :] = np.nan
        return np.asarray(values, np.float32)

    def losses_of(self, configuration: Mapping[str, Any]) -> None:
        """There are none."""
