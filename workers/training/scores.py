"""Scores: how good the predictions on a set of images are, from the logits of its batches.

Everything is computed where the logits are and read once at the end, without waiting for a GPU before and without
atomic additions, which are not deterministic there. The formulas are those of scikit-learn, with which the tests
compare them; it would need the logits on the CPU in each epoch. It must not know models or files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.scores import MOST_CLASSES
from workers.training.group import Group, Part

TOP = 5  # of the classes: a label among the likeliest five counts as right
BINS = 15  # of the confidence, all of one width (Guo et al., 2017)


@dataclass(frozen=True)
class Scores:
    """Mean cross-entropy in nats, and shares in [0, 1].

    `balanced_accuracy` is the mean over classes of the share of their images that are right, `macro_f1` the mean over
    classes of F1. A class that has no images counts for neither, unless F1 finds it predicted. `top5_accuracy` is None
    with TOP classes or fewer. `calibration_error` is the expected one: by how much the confidence in a prediction
    differs from the share that is right. On the device stay `right` [images], `recall` [classes], which is not a number
    for a class without images, and `confusion` [true class, predicted class], None with more than MOST_CLASSES: its
    size is the square of their number.
    """

    loss: float
    accuracy: float
    balanced_accuracy: float
    macro_f1: float
    top5_accuracy: float | None
    calibration_error: float
    right: Tensor = field(repr=False, compare=False)
    recall: Tensor = field(repr=False, compare=False)
    confusion: Tensor | None = field(repr=False, compare=False)

    def metrics(self, prefix: str) -> dict[str, float]:
        """The shares beside the accuracy, under names that begin with `prefix`."""
        values = {
            "balanced_accuracy": self.balanced_accuracy,
            "macro_f1": self.macro_f1,
            "top5_accuracy": self.top5_accuracy,
            "calibration_error": self.calibration_error,
        }
        return {f"{prefix}_{name}": value for name, value in values.items() if value is not None}


class Batches:
    """Takes the batches of a set of images one after the other. The processes of a `group` take those of their `part`
    each."""

    def __init__(self, classes: int, group: Group, part: Part) -> None:
        self._classes = classes
        self._group, self._part = group, part
        self._losses: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._predicted: list[Tensor] = []
        self._confidence: list[Tensor] = []
        self._in_top: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """`logits` [images, classes] and the class indices of the images."""
        self._losses.append(functional.cross_entropy(logits, labels, reduction="sum"))
        self._labels.append(labels)
        self._predicted.append(logits.argmax(1))
        self._confidence.append(logits.softmax(1).amax(1))
        if self._classes > TOP:
            self._in_top.append((logits.topk(TOP, 1).indices == labels[:, None]).any(1).sum())

    def scores(self) -> Scores:
        """Those of all images. It waits for the GPU."""
        labels, predicted = self._all(self._labels), self._all(self._predicted)
        right = predicted == labels
        nowhere = torch.full_like(labels, self._classes)  # sorted behind all classes, and not counted
        found = class_counts(torch.where(right, labels, nowhere), self._classes).double()
        of_class, of_prediction = class_counts(labels, self._classes), class_counts(predicted, self._classes)
        sums = [
            self._total(self._losses),
            right.sum(),
            *_class_means(found, of_class, of_prediction),
            _calibration_error(self._all(self._confidence), right),
            self._total(self._in_top) if self._in_top else right.sum(),
        ]
        count = len(labels)
        loss, hits, balanced, f1, calibration, in_top = torch.stack([one.double() for one in sums]).tolist()
        return Scores(
            loss=loss / count,
            accuracy=hits / count,
            balanced_accuracy=balanced,
            macro_f1=f1,
            top5_accuracy=in_top / count if self._in_top else None,
            calibration_error=calibration,
            right=right,
            recall=found / of_class,
            confusion=_confusion(labels, predicted, self._classes) if self._classes <= MOST_CLASSES else None,
        )

    def _all(self, of_batches: list[Tensor]) -> Tensor:
        return self._group.joined([torch.cat(of_batches)], [self._part])

    def _total(self, of_batches: list[Tensor]) -> Tensor:
        return self._group.total(torch.stack(of_batches).sum(), self._part)


def _confusion(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """The number of images of each pair of classes."""
    return class_counts(labels * classes + predicted, classes * classes).reshape(classes, classes)


def _class_means(found: Tensor, of_class: Tensor, of_prediction: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over classes of recall, and of F1, from the number of right images, of images and of predictions."""
    recalls = torch.where(of_class > 0, found / of_class.clamp(min=1), 0.0)
    either = of_class + of_prediction
    f1 = torch.where(either > 0, 2 * found / either.clamp(min=1), 0.0)
    return recalls.sum() / (of_class > 0).sum(), f1.sum() / (either > 0).sum()


def _calibration_error(confidence: Tensor, right: Tensor) -> Tensor:
    """The distance of confidence and accuracy in each bin, weighted with the bin's images. Not finite if a confidence
    is not."""
    confidence = confidence.double()
    bins = (confidence * BINS).ceil().clamp(1, BINS)  # each contains its upper end
    members = bins[:, None] == torch.arange(1, BINS + 1, device=bins.device)
    distances = torch.where(members, (right.double() - confidence)[:, None], 0.0).sum(0)
    return distances.abs().sum() / len(right) + (confidence.sum() * 0.0)


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """The number of images of each class, counted by sorting: bincount would wait for a GPU."""
    ends = torch.searchsorted(labels.sort().values, torch.arange(classes + 1, device=labels.device))
    return ends.diff()


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """A weight for each class such that all classes have the same sum; 1 for a class without images."""
    counts = class_counts(labels, classes)
    return torch.where(counts > 0, len(labels) / ((counts > 0).sum() * counts.clamp(min=1)), 1.0).float()
