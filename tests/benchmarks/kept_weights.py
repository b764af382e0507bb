"""Which weights of a trial are kept: the test accuracy of the epochs that four rules choose, on the same trials.

`python -m tests.benchmarks.kept_weights digits` or `fashion_mnist --data DIR`. Trials are drawn at random and trained
to their end. Prints a line for each trial and then the means, each with its difference to the first rule in percentage
points and the standard error of that difference.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import torch

from search_spaces.experiment import ExperimentSpec
from search_spaces.searchers.base import SearchProblem
from workers.data.splits import Splits, load
from workers.training.loop import Training

SPACE = {
    "model": {"kind": "cnn", "width": {"choice": [8, 16]}, "depth": 2, "dropout": {"uniform": [0.0, 0.3]}},
    "optimizer": {
        "choice": [
            {"kind": "sgd", "lr": {"loguniform": [0.01, 0.5]}, "momentum": 0.9},
            {"kind": "adam", "lr": {"loguniform": [0.0005, 0.02]}},
        ]
    },
    "scheduler": {"choice": ["one_cycle", "cosine", "plateau", "constant"]},
    "batch_size": {"choice": [32, 64, 128]},
    "label_smoothing": {"choice": [0.0, 0.1]},
}
ENDS_LOW = frozenset({"one_cycle", "cosine"})
#: Validation loss, validation accuracy and test accuracy of an epoch.
Epoch = tuple[float, float, float]
#: Each chooses the index of an epoch.
RULES: dict[str, Callable[[Sequence[Epoch]], int]] = {
    "first epoch of the best accuracy": lambda epochs: max(range(len(epochs)), key=lambda at: (epochs[at][1], -at)),
    "lowest loss of the best accuracy": lambda epochs: max(
        range(len(epochs)), key=lambda at: (epochs[at][1], -epochs[at][0])
    ),
    "lowest loss": lambda epochs: min(range(len(epochs)), key=lambda at: epochs[at][0]),
    "last epoch": lambda epochs: len(epochs) - 1,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--trials", type=int, default=36)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--images", type=int, default=5000, help="of training and validation together, and of the test")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    fields = {"dataset": {"name": options.dataset}, "search_space": SPACE, "searcher": "random"}
    spec = ExperimentSpec.model_validate({"name": "kept", "max_epochs": options.epochs, "seed": options.seed, **fields})
    curves: dict[str, list[list[Epoch]]] = {}
    with tempfile.TemporaryDirectory() as cache:
        whole = load(spec.dataset, spec.seed, options.data, Path(cache))
        splits, (images, labels) = _smaller(whole, options.images), whole.test()
        algorithm = spec.searcher.algorithm(SearchProblem(spec.search_space, 1, spec.seed))
        for number in range(options.trials):
            training = Training(spec.bind(algorithm.propose(number) or {}, number), splits)
            epochs = []
            for _ in range(options.epochs):
                metrics = training.run_epoch()
                tested = training.evaluate(images[: options.images], labels[: options.images]).accuracy
                epochs.append((metrics["validation_loss"], metrics["validation_accuracy"], tested))
            kind = training.spec.hyperparameters.scheduler.kind
            if not training.diverged:
                curves.setdefault("ends low" if kind in ENDS_LOW else "others", []).append(epochs)
            print(json.dumps({"trial": number, "scheduler": kind, "test": epochs[-1][2]}), flush=True)
    for group, found in {**curves, "all": [one for each in curves.values() for one in each]}.items():
        _report(group, found)


def _report(group: str, found: Sequence[Sequence[Epoch]]) -> None:
    chosen = {name: [100 * epochs[rule(epochs)][2] for epochs in found] for name, rule in RULES.items()}
    today = next(iter(chosen.values()))
    for name, values in chosen.items():
        gains = [value - other for value, other in zip(values, today, strict=True)]
        error = stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        print(f"{group:>9} {len(found):3d} {name:<33} {fmean(values):6.2f} {fmean(gains):+5.2f} +- {error:4.2f}")


def _smaller(data: Splits, images: int) -> Splits:
    """The first images of both splits, in the same shares."""
    share = min(1.0, images / (len(data.train_labels) + len(data.validation_labels)))
    train, validation = round(share * len(data.train_labels)), round(share * len(data.validation_labels))
    return replace(
        data,
        train_images=data.train_images[:train],
        train_labels=data.train_labels[:train],
        validation_images=data.validation_images[:validation],
        validation_labels=data.validation_labels[:validation],
    )


if __name__ == "__main__":
    main()
