"""Made-up learning curves of a search space with choices and conditions, whose first epochs are mostly noise.

They have what LCBench lacks: domains of which a trial has only some; optimizers with different best rates; alternatives
that differ by little; and a first rung that says little about the end. `conditional-K` is the K-th of endlessly many.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.experiment import SearchSpace
from search_spaces.sampling import draw_from, resolve
from search_spaces.searchers.untried import draw_at_random
from tests.benchmarks.search_quality.lcbench import EPOCHS

PREFIX = "conditional-"
SPACE = SearchSpace.model_validate(
    {
        "optimizer": {
            "choice": [
                {"kind": "sgd", "lr": {"loguniform": [1e-4, 1.0]}, "momentum": {"uniform": [0, 0.99]}},
                {"kind": "adam", "lr": {"loguniform": [1e-5, 1e-1]}},
                {"kind": "rmsprop", "lr": {"loguniform": [1e-5, 1e-1]}},
            ]
        },
        "scheduler": {
            "choice": [
                "constant",
                {"kind": "cosine", "warmup_epochs": {"choice": [0, 1, 3]}},
                {"kind": "step", "gamma": {"uniform": [0.1, 0.9]}},
            ]
        },
        "normalization": {"choice": ["batch", "layer", "group", "none"]},
        "model": {"kind": "cnn", "width": {"log_int_range": [8, 64]}, "dropout": {"uniform": [0, 0.6]}},
        "batch_size": {"choice": [32, 64, 128, 256]},
        "label_smoothing": {"uniform": [0, 0.3]},
        "augmentation": {"horizontal_flip": {"choice": [0.0, 0.5]}, "mixup_alpha": {"uniform": [0, 1.0]}},
    }
)
LEAST_ERROR = 0.04  # of the best configuration of the best optimizer, before that optimizer's own share
NOISE = 0.004  # standard deviation of the accuracy of an epoch


class ConditionalTask:
    """One set of best values. `best` and `median` normalize the regret of a search."""

    space = SPACE
    epochs = EPOCHS

    def __init__(self, name: str) -> None:
        self.name = name
        draw = np.random.default_rng(1000 + int(name.removeprefix(PREFIX)))
        self._error = dict(zip(("sgd", "adam", "rmsprop"), draw.normal(0, 0.02, 3), strict=True))
        #: kind -> the logarithm of its best rate, and how far from it the error rises by 0.03
        self._rate = {
            "sgd": (draw.uniform(-2, -0.5), 0.6),
            "adam": (draw.uniform(-3.5, -2.2), 0.5),
            "rmsprop": (draw.uniform(-4, -2.5), 0.5),
        }
        self._scheduler = {"constant": 0.02 + abs(draw.normal(0, 0.01)), "cosine": 0.0, "step": 0.01}
        self._normalization = {"batch": 0, "layer": draw.uniform(0, 0.04), "group": draw.uniform(0, 0.03), "none": 0.08}
        self._width, self._dropout = draw.uniform(0.3, 1), draw.uniform(0, 0.4)

    def curve(self, configuration: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """Validation accuracy in 0..1 after each epoch, of shape (EPOCHS,)."""
        digest = hashlib.sha256(json.dumps([self.name, configuration], sort_keys=True).encode()).digest()
        noise = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        dropout = configuration["model"]["dropout"]
        error = min(max(self._final_error(configuration), 0.01), 0.9)
        speed = noise.uniform(3, 8) * (1 + dropout)
        rise = np.exp(-np.arange(1, EPOCHS + 1) / speed)
        values = 1 - error - 0.9 * (0.9 - error) * rise + noise.normal(0, NOISE, EPOCHS)
        return np.clip(values, 0, 1).astype(np.float32)

    def losses_of(self, configuration: Mapping[str, Any]) -> None:
        """There are none."""

    def _final_error(self, configuration: Mapping[str, Any]) -> float:
        optimizer, model = configuration["optimizer"], configuration["model"]
        center, width = self._rate[optimizer["kind"]]
        off = math.log10(optimizer["lr"]) - center
        if optimizer["kind"] == "sgd":  # momentum multiplies the rate
            off -= 0.5 * math.log10(1 - optimizer["momentum"])
        return float(
            LEAST_ERROR
            + self._error[optimizer["kind"]]
            + (0.12 * (off / (2 * width)) ** 2 if off < 1.2 else 0.85)
            + self._scheduler[configuration["scheduler"]["kind"]]
            + self._normalization[configuration["normalization"]["kind"]]
            + 0.03 * self._width * math.log(64 / model["width"]) / math.log(8)
            + 0.06 * (model["dropout"] - self._dropout) ** 2
            + 0.01 * abs(math.log2(configuration["batch_size"] / 64))
            + 0.05 * (configuration["label_smoothing"] - 0.1) ** 2
            + 0.02 * (configuration["augmentation"]["mixup_alpha"] - 0.3) ** 2
        )

    @property
    def best(self) -> float:
        return 1 - max(LEAST_ERROR + min(self._error.values()), 0.01)

    @cached_property
    def median(self) -> float:
        """Of the best value of a random configuration that trains all epochs."""
        generator = random.Random(0)
        samples = [draw_at_random(SPACE, generator) for _ in range(500)]
        return float(np.median([self.curve(resolve(SPACE, draw_from(sample))).max() for sample in samples]))
