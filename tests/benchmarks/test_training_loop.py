"""The speed of a trial on the CPU relative to a bare PyTorch loop with the same model, data and number of threads.

Run: python -m pytest tests/benchmarks/test_training_loop.py --override-ini addopts=--import-mode=importlib -s

The bare loop is what one writes by hand: normalized tensors in memory, a permutation, torch's optimizer, sums of
loss and accuracy, and an evaluation. The two alternate; the ratio is that of their median epochs.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from search_spaces.experiment import ExperimentSpec, TrialSpec
from workers.data.splits import Splits
from workers.models.build import build_model
from workers.targets import resolve_target
from workers.training.loop import Training

MIN_RATIO = 0.95


def first(images: int, validation: int, data: Splits) -> Splits:
    return dataclasses.replace(
        data,
        train_images=data.train_images[:images],
        train_labels=data.train_labels[:images],
        validation_images=data.validation_images[:validation],
        validation_labels=data.validation_labels[:validation],
    )


class Bare:
    """A training loop as one writes it by hand."""

    def __init__(self, spec: TrialSpec, data: Splits) -> None:
        torch.manual_seed(0)
        space = spec.hyperparameters
        self.model = build_model(space.model, space.normalization, 1, 10, data.train_images.shape[-1])
        self.optimizer = resolve_target(space.optimizer.target)(self.model.parameters(), **space.optimizer.arguments())
        self.batch = space.batch_size
        mean, std = data.mean.item(), data.std.item()
        self.images = (data.train_images.float() / 255 - mean) / std
        self.labels = data.train_labels
        self.validation = (data.validation_images.float() / 255 - mean) / std, data.validation_labels

    def run_epoch(self) -> None:
        self.model.train()
        order = torch.randperm(len(self.images))
        loss_sum, correct = torch.zeros(()), torch.zeros(())
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            images, labels = self.images[chosen], self.labels[chosen]
            self.optimizer.zero_grad()
            logits = self.model(images)
            loss = functional.cross_entropy(logits, labels)
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.detach() * len(chosen)
            correct += (logits.argmax(1) == labels).sum()
        self.evaluate(self.model)

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> float:
        model.eval()
        images, labels = self.validation
        correct = 0.0
        for start in range(0, len(images), 1024):
            correct += (model(images[start : start + 1024]).argmax(1) == labels[start : start + 1024]).sum().item()
        return correct / len(images)


def seconds(loop: Any) -> float:
    started = time.perf_counter()
    loop.run_epoch()
    return time.perf_counter() - started


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_digits_against_a_bare_loop(optimizer: str, digits: Splits) -> None:
    compare("digits, cnn of width 16", {"kind": "cnn", "width": 16, "depth": 2}, digits, 64, 25, optimizer)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_fashion_mnist_against_a_bare_loop(optimizer: str, fashion: Splits) -> None:
    model = {"kind": "resnet", "width": 16, "depth": 9}
    compare("Fashion-MNIST, resnet of depth 9", model, first(1024, 256, fashion), 128, 5, optimizer)


def compare(name: str, model: dict[str, Any], data: Splits, batch: int, rounds: int, optimizer: str) -> None:
    space = {"model": model, "batch_size": batch, "optimizer": optimizer, "augmentation": "none"}
    spec = ExperimentSpec(name="benchmark", search_space=space, max_epochs=1000).bind({})
    images = len(data.train_images)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours, bare = Training(spec, data), Bare(spec, data)
        seconds(ours), seconds(bare)
        pairs = [(seconds(ours), seconds(bare)) for _ in range(rounds)]
    finally:
        torch.set_num_threads(before)
    own, hand = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(
        f"\n{name}, {optimizer}, 1 thread: ours {images / own:,.0f} images/s, bare {images / hand:,.0f} images/s, "
        f"ratio {hand / own:.2f} (median of {rounds} epochs each, alternating)"
    )
    assert hand / own >= MIN_RATIO
