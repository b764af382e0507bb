"""Recorded learning curves: networks on real images that Rung itself trained, one table for each task.

A task answers with the curve of the recorded configuration that is most similar to the one that is asked for. Two
configurations are the more similar, the more trees of a forest put them into one leaf; the forest was fitted to the
recorded curves, so hyperparameters count as much as they matter (Breiman, 2001). `recording` makes the tables.

Near a good configuration, the most similar recorded one is mostly the good one itself, so a table does not reward a
search that refines what it found. A task whose name ends with `-mean` answers with what the forest predicts instead:
the mean of the curves of similar configurations, which changes from one configuration to the next.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.sampling import Sample, draw_from, resolve
from search_spaces.stored import read_spec

FOLDER = Path(__file__).parent / "recorded"
TREES = 100
MEAN = "-mean"
LEAST_LEAF = 2  # recorded configurations of a leaf: noise of single ones shapes no tree
ABSENT = -1.0  # stands for a number that a configuration does not have; all numbers of the tables are at least 0
Array = npt.NDArray[np.float32]


def table_of(task: str) -> Path:
    return FOLDER / f"{task}.jsonl.xz"


def names() -> list[str]:
    tables = sorted(path.name.removesuffix(".jsonl.xz") for path in FOLDER.glob("*.jsonl.xz"))
    return [*tables, *(table + MEAN for table in tables)]


def recorded_task(name: str) -> RecordedTask:
    return MeanTask(name) if name.endswith(MEAN) else RecordedTask(name)


class RecordedTask:
    """One table. `best` and `median` normalize the regret of a search.

    `accuracies` and `losses` are of shape (trials, epochs), of `samples` in this order. They are NaN from the epoch on
    in which a network diverged.
    """

    def __init__(self, name: str) -> None:
        header, *trials = map(
            json.loads, lzma.decompress(table_of(name.removesuffix(MEAN)).read_bytes()).decode().splitlines()
        )
        spec = read_spec(header["spec"])
        self.name, self.space, self.epochs = name, spec.search_space, spec.max_epochs
        self.samples: list[Sample] = [trial["sample"] for trial in trials]
        self.accuracies = np.array([self._padded(trial["accuracy"]) for trial in trials], np.float32)
        self.losses = np.array([self._padded(trial["loss"]) for trial in trials], np.float32)

    @cached_property
    def configurations(self) -> list[Mapping[str, Any]]:
        return [resolve(self.space, draw_from(sample)) for sample in self.samples]

    @cached_property
    def best(self) -> float:
        return float(np.nanmax(self.accuracies))

    @cached_property
    def median(self) -> float:
        """Of the best value of a recorded configuration: they were drawn at random."""
        return float(np.median(np.nan_to_num(self.accuracies).max(axis=1)))

    def curve(self, configuration: Mapping[str, Any]) -> Array:
        return self.accuracies[self.nearest(configuration)]

    def losses_of(self, configuration: Mapping[str, Any]) -> Array | None:
        return self.losses[self.nearest(configuration)]

    def nearest(self, configuration: Mapping[str, Any]) -> int:
        """The position of the most similar recorded configuration; of equals the first."""
        shared = (self._leaves == self._leaves_of(self._vectors([configuration]))).sum(axis=1)
        return int(shared.argmax())

    @cached_property
    def _columns(self) -> list[str]:
        return sorted({name for one in self.configurations for name, _ in _numbers(one)})

    @cached_property
    def _forest(self) -> Any:
        return fitted(self._vectors(self.configurations), self.accuracies)

    @cached_property
    def _leaves(self) -> npt.NDArray[np.intp]:
        return self._leaves_of(self._vectors(self.configurations))

    def _leaves_of(self, vectors: Array) -> npt.NDArray[np.intp]:
        """The leaf of each vector in each tree, of shape (n, TREES)."""
        return np.stack([tree.tree_.apply(vectors) for tree in self._forest.estimators_], axis=1)

    def _vectors(self, configurations: list[Mapping[str, Any]]) -> Array:
        rows = [dict(_numbers(one)) for one in configurations]
        return np.array([[row.get(name, ABSENT) for name in self._columns] for row in rows], np.float32)

    def _padded(self, values: list[float]) -> list[float]:
        return values + [float("nan")] * (self.epochs - len(values))


class MeanTask(RecordedTask):
    """What the forest predicts. `best` and `median` are of its predictions for the recorded configurations."""

    @cached_property
    def best(self) -> float:
        return float(self._predicted.max())

    @cached_property
    def median(self) -> float:
        return float(np.median(self._predicted.max(axis=1)))

    @cached_property
    def _predicted(self) -> Array:
        return self._predict(self.configurations)

    def curve(self, configuration: Mapping[str, Any]) -> Array:
        curve: Array = self._predict([configuration])[0]
        return curve

    def losses_of(self, configuration: Mapping[str, Any]) -> None:
        """There are none: predictions are hardly ever equal."""

    @cached_property
    def _values(self) -> list[Array]:
        """Of each tree, the mean curve of each node: (nodes, epochs)."""
        return [tree.tree_.value[:, :, 0].astype(np.float32) for tree in self._forest.estimators_]

    def _predict(self, configurations: list[Mapping[str, Any]]) -> Array:
        """As `_forest.predict`, which is slow for one configuration."""
        leaves = self._leaves_of(self._vectors(configurations)).T
        return np.asarray(
            sum(values[leaf] for values, leaf in zip(self._values, leaves, strict=True)) / TREES, np.float32
        )


def fitted(vectors: Array, accuracies: Array) -> Any:
    """A forest for the curves; a network that diverged is as bad as none."""
    from sklearn.ensemble import RandomForestRegressor

    forest = RandomForestRegressor(TREES, min_samples_leaf=LEAST_LEAF, max_features=0.5, random_state=0)
    return forest.fit(vectors, np.nan_to_num(accuracies))


def _numbers(node: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a configuration. Fields of a kind have names of their own; a kind itself is 1 under its name."""
    if isinstance(node, Mapping):
        kind = node.get("kind")
        inner = f"{path}.{kind}" if kind else path
        if kind:
            yield inner, 1.0
        for name, value in node.items():
            if name != "kind":
                yield from _numbers(value, f"{inner}.{name}")
    elif isinstance(node, bool | int | float):
        yield path, float(node)
