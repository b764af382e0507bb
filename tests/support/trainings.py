"""Small trials on synthetic images, which need no file and are learned within a few epochs; and what a trial reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.experiment import ExperimentSpec, TrialSpec
from workers.data.splits import Splits
from workers.training.loop import Training
from workers.training.scores import Scores

TIMES = {"epoch_seconds", "images_per_second"}
#: A search space in which every part that can draw random numbers does.
RANDOM_ALL_OVER = {
    "model": {"kind": "cnn", "width": 4, "depth": 1, "hidden": 16, "dropout": 0.3},
    "augmentation": {"crop_padding": 1, "rotation": 10, "brightness": 0.2, "mixup_alpha": 0.3},
    "scheduler": {"kind": "plateau", "patience": 0, "warmup_epochs": 1},
    "label_smoothing": 0.1,
    "gradient_clip_norm": 1.0,
    "class_weights": "balanced",
    "balanced_sampling": True,
}
#: Every augmentation, at strengths that keep images recognizable.
EVERY_AUGMENTATION = {
    "crop_padding": 2,
    "horizontal_flip": 0.5,
    "rotation": 15.0,
    "translation": 0.1,
    "scaling": 0.1,
    "shear": 5.0,
    "brightness": 0.2,
    "contrast": 0.2,
    "sharpness": 0.3,
    "mixup_alpha": 0.4,
}


def refuse_test_set() -> tuple[Tensor, Tensor]:
    raise AssertionError("training read the test set")


def splits(train: int = 150, validation: int = 40, channels: int = 1, side: int = 8, classes: int = 4) -> Splits:
    """Noisy copies of one pattern for each class."""
    generator = torch.Generator().manual_seed(1)
    shape = channels, side, side
    patterns = torch.randint(0, 256, (classes, *shape), generator=generator, dtype=torch.uint8)
    labels = torch.arange(train + validation) % classes
    noise = torch.randint(0, 256, (train + validation, *shape), generator=generator, dtype=torch.uint8)
    images = patterns[labels] // 3 * 2 + noise // 3
    unit = images[:train].double() / 255
    return Splits(
        train_images=images[:train],
        train_labels=labels[:train],
        validation_images=images[train:],
        validation_labels=labels[train:],
        mean=unit.mean((0, 2, 3)).float(),
        std=unit.std((0, 2, 3)).float(),
        classes=classes,
        class_names=tuple(f"class {label}" for label in range(classes)),
        load_test=refuse_test_set,
    )


def imbalanced(train: int = 400, validation: int = 200) -> Splits:
    """Four classes, of which the first has 77 % of the images."""
    data = splits(train=4 * train, validation=4 * validation)
    shares = (0.77, 0.09, 0.08, 0.06)

    def chosen(labels: Tensor, count: int) -> Tensor:
        each = [torch.nonzero(labels == label).flatten()[: round(share * count)] for label, share in enumerate(shares)]
        return torch.cat(each).sort().values

    first, second = chosen(data.train_labels, train), chosen(data.validation_labels, validation)
    return replace(
        data,
        train_images=data.train_images[first],
        train_labels=data.train_labels[first],
        validation_images=data.validation_images[second],
        validation_labels=data.validation_labels[second],
    )


def scores(loss: float, accuracy: float) -> Scores:
    """What an evaluation finds, as far as training reads it."""
    none = torch.zeros(0)
    return Scores(loss, accuracy, accuracy, accuracy, None, 0.0, none, none, None)


def trial(max_epochs: int = 4, objective: str = "validation_accuracy", **space: Any) -> TrialSpec:
    space = {"batch_size": 32, "model": {"kind": "cnn", "width": 4, "depth": 1}} | space
    experiment = ExperimentSpec(
        name="t", search_space=space, max_epochs=max_epochs, objective={"metric": objective}, seed=5
    )
    return experiment.bind({})


def curve(training: Training, epochs: int) -> list[dict[str, float]]:
    """The metrics of the next epochs, except times."""
    return [{k: v for k, v in training.run_epoch().items() if k not in TIMES} for _ in range(epochs)]


class Recorder(nn.Module):
    """Records the batches that a model is trained on, and those that it is evaluated on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.trained: list[Tensor] = []
        self.evaluated: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        (self.trained if self.training else self.evaluated).append(images.clone())
        logits: Tensor = self.model(images)
        return logits


def recorded(training: Training) -> Recorder:
    """The recorder of a training's batches."""
    recorder = Recorder(training.model)
    training.model = training._network = training._trained = recorder
    return recorder
