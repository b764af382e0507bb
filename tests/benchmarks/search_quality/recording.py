"""python -m tests.benchmarks.search_quality.recording TASK: record the learning curves of a table.

Trains the configurations of `recorded/TASK.yaml` one after the other with Rung's own training, on one thread and
without early stopping. Each that is done is added to a file of lines at once, and the command continues where it was
stopped.
`--pack` makes the table of `recorded.py` from that file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import lzma
import math
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.experiment import ExperimentSpec
from search_spaces.parsing import read
from search_spaces.searchers.base import SearchProblem
from search_spaces.validation import validate
from tests.benchmarks.search_quality.recorded import FOLDER, table_of
from workers.data import splits
from workers.data.splits import Splits, stratified_split
from workers.training.loop import Training

#: Images for training and for validation of tasks that use some of them only.
SUBSETS = {"fashion-cnn": (1_000, 1_000)}
SUBSET_SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=sorted(path.stem for path in FOLDER.glob("*.yaml")))
    parser.add_argument("--lines", type=Path, required=True, help="file of the trials that are done")
    parser.add_argument("--data-root", type=Path, default=Path(), help="folder with the files of the data set")
    parser.add_argument("--cache", type=Path, required=True, help="folder for decoded images")
    parser.add_argument("--pack", action="store_true", help="make the table, and train nothing")
    given = parser.parse_args()
    spec = validate(read((FOLDER / f"{given.task}.yaml").read_bytes(), "application/yaml"))
    data = _data(given.task, spec, given.data_root, given.cache)
    if given.pack:
        pack(given.task, spec, data, given.lines)
    else:
        record(spec, data, given.lines)


def record(spec: ExperimentSpec, data: Splits, lines: Path) -> None:
    import torch

    torch.set_num_threads(1)
    algorithm = spec.searcher.algorithm(SearchProblem(spec.search_space, spec.objective.sign, spec.seed))
    done = {trial["number"]: trial for trial in _trials(lines)}
    for number in range(spec.num_samples):
        sample = algorithm.propose(number)
        if sample is None or number in done:
            continue
        trained = {"number": number, "sample": sample, **_curves(spec, sample, number, data)}
        with lines.open("a") as file:
            file.write(json.dumps(trained) + "\n")


def pack(task: str, spec: ExperimentSpec, data: Splits, lines: Path) -> None:
    """The table: a header, then the trials in the order of their numbers."""
    from torch import __version__ as torch_version

    header = {
        "spec": spec.model_dump(mode="json"),
        "images": [len(data.train_labels), len(data.validation_labels)],
        "torch": torch_version,
    }
    trials = sorted(_trials(lines), key=lambda trial: trial["number"])
    text = "\n".join(json.dumps(line, separators=(",", ":")) for line in (header, *trials))
    table_of(task).write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def _curves(spec: ExperimentSpec, sample: dict[str, float], number: int, data: Splits) -> dict[str, list[float]]:
    """Validation accuracy and loss of each epoch. They end before the one in which the network diverged."""
    training = Training(spec.bind(sample, number), data)
    curves: dict[str, list[float]] = {"accuracy": [], "loss": []}
    for _ in range(spec.max_epochs):
        metrics = training.run_epoch()
        if training.diverged or not math.isfinite(metrics["validation_loss"]):
            break
        curves["accuracy"].append(round(metrics["validation_accuracy"], 5))
        curves["loss"].append(float(f"{metrics['validation_loss']:.4g}"))
    return curves


def _data(task: str, spec: ExperimentSpec, data_root: Path, cache: Path) -> Splits:
    data = splits.load(spec.dataset, spec.seed, data_root, cache, download=False)
    if task not in SUBSETS:
        return data
    train = _some(data.train_labels.numpy(), SUBSETS[task][0])
    validation = _some(data.validation_labels.numpy(), SUBSETS[task][1])
    return dataclasses.replace(
        data,
        train_images=data.train_images[train],
        train_labels=data.train_labels[train],
        validation_images=data.validation_images[validation],
        validation_labels=data.validation_labels[validation],
    )


def _some(labels: Any, count: int) -> Any:
    """Indices of about `count` images, of each class the same share."""
    return np.asarray(stratified_split(labels, count / len(labels), SUBSET_SEED)[1])


def _trials(lines: Path) -> list[dict[str, Any]]:
    """Those whose line is complete."""
    text = lines.read_text() if lines.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


if __name__ == "__main__":
    main()
