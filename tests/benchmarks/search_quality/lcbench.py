"""LCBench (Zimmer, Lindauer, Hutter 2021): learning curves of small networks on tables, from YAHPO's surrogate.

A folder has `model.onnx`, `encoding.json` (task -> code) and `config_space.json` (ranges), as in slds-lmu/yahpo_data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.domains import IntRange, LogIntRange, LogUniform, Uniform
from search_spaces.spec import Spec

#: The surrogate's first epoch is the network before training.
EPOCHS = 50
#: In the order of the model's inputs, after the epoch.
INPUTS = ("batch_size", "learning_rate", "momentum", "weight_decay", "num_layers", "max_units", "max_dropout")
VALIDATION_ACCURACY = 1  # among the outputs of the model, in percent
FORMS = {
    ("uniform_int", True): LogIntRange, ("uniform_int", False): IntRange,
    ("uniform_float", True): LogUniform, ("uniform_float", False): Uniform,
}  # fmt: skip
Array = npt.NDArray[np.float32]


class Space(Spec):
    """The hyperparameters, each a domain."""

    batch_size: Any
    learning_rate: Any
    momentum: Any
    weight_decay: Any
    num_layers: Any
    max_units: Any
    max_dropout: Any


class Task:
    """Learning curves of one data set. `best` and `median` normalize the regret of a search."""

    epochs = EPOCHS

    def __init__(self, folder: Path, name: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._model = onnxruntime.InferenceSession(folder / "model.onnx", options)
        self._code = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"][name]
        self.name = name
        ranges = {
            item["name"]: item for item in json.loads((folder / "config_space.json").read_text())["hyperparameters"]
        }
        self.space = Space(**{
            field: (form := FORMS[ranges[field]["type"], ranges[field]["log"]])(
                **{form.keyword: (ranges[field]["lower"], ranges[field]["upper"])}
            )
            for field in INPUTS
        })  # fmt: skip

    def curve(self, configuration: Mapping[str, Any]) -> Array:
        """Validation accuracy in 0..1 after each epoch, of shape (EPOCHS,)."""
        return self.curves(np.array([[configuration[name] for name in INPUTS]], np.float32))[0]

    def losses_of(self, configuration: Mapping[str, Any]) -> None:
        """The surrogate's losses are not used."""

    def curves(self, configurations: Array) -> Array:
        """The same for many configurations of shape (n, len(INPUTS)): shape (n, EPOCHS)."""
        count = len(configurations)
        epochs = np.arange(2, EPOCHS + 2, dtype=np.float32)
        inputs = np.concatenate(
            [np.tile(epochs, count)[:, None], np.repeat(configurations, EPOCHS, axis=0)], axis=1, dtype=np.float32
        )
        codes = np.full((len(inputs), 1), self._code, np.int32)
        names = [item.name for item in self._model.get_inputs()]
        given = {name: codes if "cat" in name else inputs for name in names}
        values = self._model.run(None, given)[0][:, VALIDATION_ACCURACY] / 100
        return np.asarray(values, np.float32).reshape(count, EPOCHS)

    @cached_property
    def median(self) -> float:
        """Of the best value of a random configuration that trains all epochs."""
        return float(np.median(self.curves(self._random(np.random.default_rng(0), 1_000)).max(axis=1)))

    @cached_property
    def best(self) -> float:
        """The best value that a local search around the best of 5,000 random configurations finds."""
        generator = np.random.default_rng(1)
        pool = self._random(generator, 5_000)
        values = self._best_of(pool)
        for scale in (0.2, 0.1, 0.05, 0.02):
            for _ in range(3):
                top = pool[np.argsort(-values)[:20]]
                near = self._from_unit(
                    np.clip(np.repeat(self._to_unit(top), 25, 0) + generator.normal(0, scale, (500, len(INPUTS))), 0, 1)
                )
                pool, values = np.concatenate([top, near]), np.concatenate([self._best_of(top), self._best_of(near)])
        return float(values.max())

    def _best_of(self, configurations: Array) -> Array:
        return np.concatenate([self.curves(part).max(axis=1) for part in np.array_split(configurations, 10)])

    def _random(self, generator: np.random.Generator, count: int) -> Array:
        return self._from_unit(generator.random((count, len(INPUTS))))

    def _from_unit(self, unit: npt.NDArray[np.float64]) -> Array:
        columns = []
        for position, name in enumerate(INPUTS):
            domain = getattr(self.space, name)
            low, high = (np.log(domain.low), np.log(domain.high)) if domain.log else (domain.low, domain.high)
            values = low + unit[:, position] * (high - low)
            values = np.exp(values) if domain.log else values
            columns.append(np.round(values) if domain.integer else values)
        return np.stack(columns, axis=1).astype(np.float32)

    def _to_unit(self, configurations: Array) -> npt.NDArray[np.float64]:
        columns = []
        for position, name in enumerate(INPUTS):
            domain, values = getattr(self.space, name), configurations[:, position].astype(np.float64)
            low, high = (np.log(domain.low), np.log(domain.high)) if domain.log else (domain.low, domain.high)
            columns.append(((np.log(values) if domain.log else values) - low) / (high - low))
        return np.stack(columns, axis=1)
