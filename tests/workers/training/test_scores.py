"""The scores of predictions against scikit-learn, and what class weights and balanced sampling do."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.utils import compute_class_weight
from torch import Tensor
from torch.nn import functional

from search_spaces.scores import MOST_CLASSES
from tests.support.trainings import curve, imbalanced, recorded, trial
from workers.training.group import Group
from workers.training.loop import Training
from workers.training.scores import Batches, Scores, class_weights


def scores_of(logits: Tensor, labels: Tensor, batch: int = 64) -> Scores:
    batches = Batches(logits.shape[1], Group(), Group().divide(len(logits)))
    for start in range(0, len(labels), batch):
        batches.add(logits[start : start + batch], labels[start : start + batch])
    return batches.scores()


@pytest.mark.parametrize("classes", [2, 5, 6, 40, MOST_CLASSES + 20])
@pytest.mark.parametrize("absent", [False, True])
def test_every_score_is_that_of_scikit_learn(classes: int, absent: bool) -> None:
    """With `absent`, no image has the last class, and nothing is predicted to be of the first."""
    generator = torch.Generator().manual_seed(classes)
    labels = torch.randint(classes - absent, (500,), generator=generator)
    logits = 3 * torch.randn(500, classes, generator=generator)
    logits[torch.arange(500), labels] += 2.5
    if absent:
        logits[:, 0] = -50.0
    found = scores_of(logits, labels)
    likely = logits.softmax(1).numpy()
    true, predicted = labels.numpy(), logits.argmax(1).numpy()
    every = list(range(classes))
    assert found.loss == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-5)
    assert found.accuracy == metrics.accuracy_score(true, predicted)
    each = metrics.recall_score(true, predicted, labels=np.unique(true), average=None)
    assert found.balanced_accuracy == pytest.approx(each.mean())
    assert found.macro_f1 == pytest.approx(metrics.f1_score(true, predicted, average="macro"))
    if classes <= MOST_CLASSES:
        assert found.confusion is not None
        assert found.confusion.tolist() == metrics.confusion_matrix(true, predicted, labels=every).tolist()
    else:
        assert found.confusion is None, "its size is the square of the number of classes"
    assert found.recall[found.recall.isfinite()].tolist() == pytest.approx(each.tolist())
    assert torch.equal(found.right, logits.argmax(1) == labels)
    if classes > 5:
        assert found.top5_accuracy == metrics.top_k_accuracy_score(true, likely, k=5, labels=every)
    else:
        assert found.top5_accuracy is None


def test_the_calibration_error_is_that_of_its_definition_and_zero_for_an_honest_network() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(4000, 4, generator=generator, dtype=torch.float64)
    honest = torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()
    for labels, low, high in ((honest, 0.0, 0.03), (logits.argmin(1), 0.5, 1.0)):
        confidence, right = logits.softmax(1).amax(1).numpy(), (logits.argmax(1) == labels).numpy()
        edges = np.linspace(0, 1, 16)
        inside = [(confidence > below) & (confidence <= above) for below, above in itertools.pairwise(edges)]
        expected = sum(abs(right[part].mean() - confidence[part].mean()) * part.mean() for part in inside if part.any())
        found = scores_of(logits, labels).calibration_error
        assert found == pytest.approx(expected)
        assert low <= found <= high


def test_the_accuracy_of_a_network_that_only_knows_the_largest_class_hides_that() -> None:
    training = Training(trial(optimizer={"kind": "sgd", "lr": 0.001}), imbalanced())
    metrics_ = training.run_epoch()
    assert metrics_["validation_accuracy"] == pytest.approx(0.77, abs=0.02)
    assert metrics_["validation_balanced_accuracy"] <= 0.30
    assert metrics_["validation_macro_f1"] <= 0.30


@pytest.mark.parametrize("space", [{"class_weights": "balanced"}, {"balanced_sampling": True}])
def test_class_weights_and_balanced_sampling_help_classes_of_few_images(space: dict[str, object]) -> None:
    common = {"optimizer": {"kind": "sgd", "lr": 0.001}}
    plain, helped = (curve(Training(trial(**common, **more), imbalanced()), 2)[-1] for more in ({}, space))
    gain = helped["validation_balanced_accuracy"] - plain["validation_balanced_accuracy"]
    assert gain > 0.2, (plain["validation_balanced_accuracy"], helped["validation_balanced_accuracy"])


@pytest.mark.parametrize("batch_size", [16, 1024])
def test_the_loss_has_the_weights_of_scikit_learn_whatever_is_in_a_batch(batch_size: int) -> None:
    data = imbalanced()
    still = {"kind": "sgd", "lr": 1e-12, "momentum": 0.0, "nesterov": False}
    space = {"optimizer": still, "normalization": "none", "batch_size": batch_size}
    training = Training(trial(class_weights="balanced", **space), data)
    recorder = recorded(training)
    measured = training.run_epoch()
    order = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(training.spec.seed))
    labels = data.train_labels[order]
    weights = compute_class_weight("balanced", classes=np.arange(4), y=data.train_labels.numpy())
    with torch.no_grad():
        losses = functional.cross_entropy(recorder.model(torch.cat(recorder.trained)), labels, reduction="none")
    each = torch.from_numpy(weights)[labels]
    assert measured["train_loss"] == pytest.approx(float((losses * each).mean()), rel=1e-4)


def test_balanced_sampling_draws_all_classes_equally_often_and_others_each_epoch() -> None:
    data = imbalanced()
    training = Training(trial(balanced_sampling=True, input_normalization=False), data)
    recorder = recorded(training)
    label_of = {
        image.numpy().tobytes(): int(label) for image, label in zip(data.train_images, data.train_labels, strict=True)
    }
    epochs = []
    for _ in range(2):
        training.run_epoch()
        drawn = (torch.cat(recorder.trained) * 255).round().to(torch.uint8)
        epochs.append([label_of[image.numpy().tobytes()] for image in drawn.contiguous()])
        recorder.trained.clear()
    assert len(epochs[0]) == len(data.train_labels)
    counts = np.bincount(epochs[0], minlength=4) / len(epochs[0])
    assert counts == pytest.approx([0.25] * 4, abs=0.08)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    "space",
    [
        {"class_weights": "balanced"},
        {"class_weights": "balanced", "augmentation": {"mixup_alpha": 0.4}, "label_smoothing": 0.1},
        {"balanced_sampling": True},
    ],
    ids=["weights", "weights of mixed labels", "sampling"],
)
@pytest.mark.parametrize("absent", [0, 2, 3])
def test_a_class_without_training_images_has_no_part_in_the_weights(space: dict[str, Any], absent: int) -> None:
    """It may have validation images. The first and the last one are the borders of what is drawn."""
    whole = imbalanced()
    kept = whole.train_labels != absent
    data = replace(whole, train_images=whole.train_images[kept], train_labels=whole.train_labels[kept])
    training = Training(trial(**space), data)
    recorder = recorded(training)
    measured = training.run_epoch()
    assert sum(map(len, recorder.trained)) == int(kept.sum())
    assert all(math.isfinite(measured[f"validation_{name}"]) for name in ("loss", "balanced_accuracy", "macro_f1"))
    present = sorted(set(range(4)) - {absent})
    expected = compute_class_weight("balanced", classes=np.array(present), y=data.train_labels.numpy())
    assert class_weights(data.train_labels, 4)[present].tolist() == pytest.approx(expected.tolist())
