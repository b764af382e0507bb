"""The training loop: the batches, the metrics, the best value, divergence, and what a GPU would wait for."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch._inductor.config
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.protocol import DIAGNOSTICS, METRICS
from tests.support.trainings import RANDOM_ALL_OVER, curve, recorded, scores, splits, trial
from workers.training import device_images
from workers.training.device_images import DeviceImages
from workers.training.loop import EpochInterruptedError, Training

CLASSES = 4


def test_an_epoch_trains_on_every_image_once_in_another_order_including_the_last_short_batch() -> None:
    data = splits(train=150)
    training = Training(trial(input_normalization=False), data)
    recorder = recorded(training)
    training.run_epoch()
    first, recorder.trained = recorder.trained, []
    training.run_epoch()
    assert [len(batch) for batch in first] == [32, 32, 32, 32, 22]
    orders = []
    for batches in (first, recorder.trained):
        flat = (torch.cat(batches) * 255).round().to(torch.uint8).flatten(1)
        keys = [bytes(row.tolist()) for row in flat]
        assert sorted(keys) == sorted(bytes(row.tolist()) for row in data.train_images.flatten(1))
        orders.append(keys)
    assert orders[0] != orders[1]


def test_input_is_normalized_by_mean_and_deviation_of_the_training_split() -> None:
    data = splits()
    training = Training(trial(), data)
    recorder = recorded(training)
    training.run_epoch()
    trained = torch.cat(recorder.trained).double()
    assert trained.mean().item() == pytest.approx(0, abs=1e-5)
    assert trained.std().item() == pytest.approx(1, abs=1e-5)


def test_only_training_images_are_augmented_and_this_before_they_are_normalized() -> None:
    data = splits()
    training = Training(trial(augmentation={"crop_padding": 2, "horizontal_flip": 1.0}), data)
    recorder = recorded(training)
    training.run_epoch()

    def raw(batches: list[Tensor]) -> list[bytes]:
        pixels = (torch.cat(batches) * data.std + data.mean) * 255
        return [image.round().to(torch.uint8).numpy().tobytes() for image in pixels.contiguous()]

    mirrored = np.pad(data.train_images.numpy()[..., ::-1], ((0, 0), (0, 0), (2, 2), (2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(mirrored, (8, 8), (2, 3)).reshape(150, 25, 64)
    number_of = {window.tobytes(): number for number, every in enumerate(windows) for window in every}
    assert sorted(number_of[image] for image in raw(recorder.trained)) == list(range(150))
    assert raw(recorder.evaluated) == [image.tobytes() for image in data.validation_images.numpy()]


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_labels_are_mixed_like_their_images_and_then_smoothed(alpha: float, smoothing: float) -> None:
    """Images of class k have one bright pixel, pixel k. So the pixels of a mixed image are the shares of its labels."""
    labels = torch.arange(150) % CLASSES
    pixels = torch.zeros(150, 64, dtype=torch.uint8)
    pixels[torch.arange(150), labels] = 255
    data = dataclasses.replace(splits(), train_images=pixels.reshape(150, 1, 8, 8), train_labels=labels)
    still = {"kind": "sgd", "lr": 1e-12, "momentum": 0.0, "nesterov": False}
    space = {"optimizer": still, "normalization": "none", "input_normalization": False, "label_smoothing": smoothing}
    training = Training(trial(**space, augmentation={"mixup_alpha": alpha}), data)
    recorder = recorded(training)
    metrics = training.run_epoch()
    images = torch.cat(recorder.trained)
    shares = images.flatten(1)[:, :CLASSES]
    assert (float(shares.amax(1).min()) < 0.9) == (alpha > 0), "no images were mixed"
    with torch.no_grad():
        likelihoods = recorder.model(images).log_softmax(1)
    targets = (1 - smoothing) * shares + smoothing / CLASSES
    assert metrics["train_loss"] == pytest.approx(float(-(targets * likelihoods).sum(1).mean()), rel=1e-5)
    hits = likelihoods.argmax(1) == shares.argmax(1)
    assert metrics["train_accuracy"] == pytest.approx(float(hits.float().mean()), abs=0.02)  # two shares may be equal


def test_the_clean_accuracy_is_measured_on_unchanged_training_images() -> None:
    data = splits()
    training = Training(trial(**RANDOM_ALL_OVER | {"balanced_sampling": False}), data)
    metrics = training.run_epoch()
    clean = training.evaluate(data.train_images, data.train_labels)
    loss, accuracy = clean.loss, clean.accuracy
    assert metrics["clean_train_accuracy"] == accuracy
    assert metrics["generalization_gap"] == accuracy - metrics["validation_accuracy"]
    assert metrics["loss_gap"] == pytest.approx(metrics["validation_loss"] - loss, abs=1e-6)
    assert accuracy not in (metrics["validation_accuracy"], metrics["train_accuracy"]), (
        "the test cannot distinguish them"
    )


def test_without_mixup_and_label_smoothing_the_gaps_use_the_training_metrics() -> None:
    metrics = Training(trial(), splits()).run_epoch()
    assert metrics["generalization_gap"] == metrics["train_accuracy"] - metrics["validation_accuracy"]
    assert metrics["loss_gap"] == metrics["validation_loss"] - metrics["train_loss"]
    assert metrics["loss_gap"] != 0


def test_clean_images_are_drawn_by_the_split_seed_from_all_training_images() -> None:
    data = splits(train=1300)
    place = {image.numpy().tobytes(): number for number, image in enumerate(data.train_images)}

    def drawn(**seeds: int) -> list[list[int]]:
        spec = trial(label_smoothing=0.1, input_normalization=False, batch_size=256).model_copy(update=seeds)
        training = Training(spec, data)
        recorder = recorded(training)
        epochs = []
        for _ in range(2):
            training.run_epoch()
            _, clean = recorder.evaluated
            epochs.append([place[(image * 255).round().to(torch.uint8).numpy().tobytes()] for image in clean])
            recorder.evaluated = []
        return epochs

    first, second = drawn()
    assert first == second, "the images changed between epochs"
    assert len(set(first)) == 1000
    assert max(first) >= 1200, "only the first images were drawn"
    assert drawn(seed=99) == [first, first], "trials of one experiment must be measured on the same images"
    assert drawn(split_seed=99)[0] != first


@pytest.mark.parametrize("space", [{}, RANDOM_ALL_OVER, {"augmentation": {"mixup_alpha": 0.2}}])
def test_an_epoch_has_the_metrics_and_diagnostics_of_the_protocol(space: dict[str, Any]) -> None:
    metrics = Training(trial(**space), splits()).run_epoch()
    absent = {"validation_top5_accuracy"} | (set() if space else {"clean_train_accuracy"})
    assert set(metrics) == set(METRICS) | set(DIAGNOSTICS) - absent | {"epoch"}
    assert metrics["nonfinite_steps"] == 0
    assert metrics["epoch"] == 1


def test_an_epoch_equals_a_loop_written_by_hand() -> None:
    """SGD without momentum, batch by batch, in the recorded order."""
    data = splits()
    spec = trial(
        optimizer={"kind": "sgd", "lr": 0.05, "momentum": 0.0, "nesterov": False},
        normalization="none",
        scheduler="constant",
        gradient_clip_norm=0.5,
    )
    training, twin = Training(spec, data), Training(spec, data)
    recorder = recorded(training)
    metrics = training.run_epoch()
    lookup = {bytes(image.numpy().tobytes()): i for i, image in enumerate(twin._images.inputs(torch.arange(150)))}
    order = [lookup[bytes(image.numpy().tobytes())] for batch in recorder.trained for image in batch]
    losses, norms, hits, before = [], [], [], []
    for start in range(0, 150, 32):
        chosen = torch.tensor(order[start : start + 32])
        before = [p.detach().clone() for p in twin.model.parameters()]
        twin.model.zero_grad()
        logits = twin.model(twin._images.inputs(chosen))
        loss = functional.cross_entropy(logits, data.train_labels[chosen])
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in twin.model.parameters()))
        with torch.no_grad():
            for p in twin.model.parameters():
                p -= 0.05 * p.grad * min(1.0, 0.5 / norm)
        losses += [float(loss.detach())] * len(chosen)
        norms.append(norm)
        hits += (logits.argmax(1) == data.train_labels[chosen]).tolist()
    after = [p.detach() for p in twin.model.parameters()]
    size = math.sqrt(sum(float(p.square().sum()) for p in after))
    old = math.sqrt(sum(float(p.square().sum()) for p in before))
    moved = math.sqrt(sum(float((p - q).square().sum()) for p, q in zip(after, before, strict=True)))
    assert metrics["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics["train_accuracy"] == pytest.approx(np.mean(hits))
    assert metrics["grad_norm"] == pytest.approx(np.mean(norms), rel=1e-4)
    assert metrics["weight_norm"] == pytest.approx(size, rel=1e-5)
    assert metrics["update_ratio"] == pytest.approx(moved / old, rel=1e-5)
    assert moved / size != pytest.approx(moved / old, rel=1e-4), "the test cannot tell the weights before and after"
    assert min(norms) > 0.5, "nothing was clipped"


def test_the_exported_classifier_has_the_metrics_of_the_evaluation_for_bytes_and_floats() -> None:
    data = splits()
    training = Training(trial(), data)
    metrics = curve(training, 2)[-1]
    classifier = training.classifier()
    with torch.no_grad():
        logits = classifier(data.validation_images)
        assert torch.equal(logits, classifier(data.validation_images.float()))
    loss = float(functional.cross_entropy(logits, data.validation_labels))
    accuracy = float((logits.argmax(1) == data.validation_labels).float().mean())
    assert metrics["validation_loss"] == pytest.approx(loss, rel=1e-6)
    assert metrics["validation_accuracy"] == pytest.approx(accuracy)
    again = training.evaluate(data.validation_images, data.validation_labels)
    assert (again.loss, again.accuracy) == (metrics["validation_loss"], metrics["validation_accuracy"])
    assert not classifier.training
    assert logits.dtype == torch.float32


def test_exporting_and_evaluating_do_not_change_the_trial() -> None:
    exported, other = Training(trial(), splits()), Training(trial(), splits())
    curve(exported, 1)
    curve(other, 1)
    exported.classifier()(splits().validation_images)
    exported.evaluate(splits().validation_images, splits().validation_labels)
    assert curve(exported, 2) == curve(other, 2)


def test_a_trial_whose_loss_explodes_has_diverged_and_raises_nothing() -> None:
    spec = trial(
        max_epochs=6, optimizer={"kind": "sgd", "lr": 100.0}, normalization="none", model={"kind": "vgg", "width": 8}
    )
    training = Training(spec, splits())
    metrics = curve(training, 4)
    assert training.diverged
    assert not math.isfinite(metrics[-1]["train_loss"])
    assert metrics[-1]["nonfinite_steps"] == 1
    assert training.best_value is None or math.isfinite(training.best_value)
    again = Training(spec, splits())
    again.load_state_dict(training.state_dict())
    assert again.diverged


@pytest.mark.parametrize(
    ("objective", "best"), [("validation_accuracy", [(0.4, 1), (0.8, 2)]), ("validation_loss", [(0.9, 1), (0.3, 3)])]
)
def test_the_best_value_is_finite_and_its_epoch_is_the_first_that_reached_it(
    objective: str, best: list[tuple[float, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(trial(max_epochs=6, objective=objective), splits())
    evaluations = iter([(0.9, 0.4), (0.5, 0.8), (0.3, 0.7), (0.3, 0.8), (math.nan, 0.9), (0.6, 0.6)])
    monkeypatch.setattr(training, "_evaluate", lambda *_: scores(*next(evaluations)))
    after_epochs = [(training.best_value, training.best_epoch) for _ in range(6) if training.run_epoch()]
    assert [after_epochs[0], *after_epochs[-4:]] == [best[0], *[best[1]] * 4]


def test_an_epoch_whose_training_loss_is_not_finite_is_never_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(trial(), splits())
    train = training._train
    monkeypatch.setattr(training, "_train", lambda: train() | {"train_loss": math.nan})
    metrics = training.run_epoch()
    assert math.isfinite(metrics["validation_loss"])
    assert training.diverged
    assert (training.best_value, training.best_epoch) == (None, 0)


@pytest.mark.parametrize("loss", ["falls", "rises"])
@pytest.mark.parametrize("accuracy", ["falls", "rises"])
@pytest.mark.parametrize("objective", ["validation_accuracy", "validation_loss"])
def test_a_plateau_monitors_the_objective_in_its_direction(
    objective: str, accuracy: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plateau = {"kind": "plateau", "patience": 0, "factor": 0.5}
    training = Training(trial(objective=objective, scheduler=plateau), splits())
    line = {"falls": (0.9, 0.5, 0.1), "rises": (0.1, 0.5, 0.9)}
    evaluations = zip(line[loss], line[accuracy], strict=True)
    monkeypatch.setattr(training, "_evaluate", lambda *_: scores(*next(evaluations)))
    first = training.schedule.rate
    curve(training, 3)
    improves = accuracy == "rises" if objective == "validation_accuracy" else loss == "falls"
    assert training.schedule.rate == pytest.approx(first if improves else first / 4)


def test_convolutions_are_channels_last() -> None:
    training = Training(trial(model={"kind": "cnn", "width": 4, "depth": 2}), splits(channels=3))
    weights = [module.weight for module in training.model.modules() if isinstance(module, nn.Conv2d)]
    assert len(weights) >= 2
    for weight in weights:
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert not weight.is_contiguous(), "the test cannot distinguish the formats"


@pytest.mark.parametrize("normalization", ["batch", "layer", "instance", "group", "none"])
def test_a_last_batch_of_one_image_is_trained_on(normalization: str) -> None:
    model = {"kind": "cnn", "width": 8, "depth": 1, "hidden": 16}
    training = Training(trial(normalization=normalization, model=model), splits(train=33))
    assert all(math.isfinite(value) for value in training.run_epoch().values())


@pytest.mark.parametrize("optimizer", ["adam", "nadam"])
def test_a_step_that_the_gradient_scaler_skips_is_counted_and_does_not_change_the_norm(optimizer: str) -> None:
    """The scaler is enabled on a CPU here, and the first gradient overflows."""
    training = Training(trial(optimizer=optimizer), splits())
    training._scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    factors = iter((math.inf, 1.0, 1.0, 1.0, 1.0))
    training._weights[0].register_hook(lambda gradient: gradient * next(factors))
    metrics = training.run_epoch()
    assert metrics["nonfinite_steps"] == pytest.approx(0.2)
    assert all(math.isfinite(value) for value in metrics.values())
    assert not training.diverged
    again = Training(trial(optimizer=optimizer), splits())
    again._scaler = torch.amp.GradScaler("cpu")
    again.load_state_dict(training.state_dict())
    assert again._scaler.get_scale() == 512


def test_training_reaches_a_high_accuracy() -> None:
    training = Training(trial(max_epochs=8, optimizer={"kind": "adam", "lr": 0.01}), splits())
    metrics = curve(training, 8)
    assert metrics[-1]["validation_accuracy"] >= 0.95
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"] / 2


def test_the_reported_rate_is_that_of_the_last_batch() -> None:
    spec = trial(max_epochs=4, optimizer={"kind": "sgd", "lr": 0.1}, scheduler={"kind": "cosine", "warmup_epochs": 1})
    rates = [metrics["lr"] for metrics in curve(Training(spec, splits()), 4)]
    batches = 5
    cosine = [0.05 * (1 + math.cos(math.pi * (k * batches - 1) / (3 * batches))) for k in (1, 2, 3)]
    assert rates == pytest.approx([0.1, *cosine])


def test_label_smoothing_changes_the_loss_in_training_and_not_in_validation() -> None:
    plain, smooth = (Training(trial(label_smoothing=value), splits()) for value in (0.0, 0.2))
    data = splits()
    assert plain.evaluate(data.validation_images, data.validation_labels) == smooth.evaluate(
        data.validation_images, data.validation_labels
    )
    assert plain.run_epoch()["train_loss"] != smooth.run_epoch()["train_loss"]


def test_input_normalized_once_equals_input_normalized_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    data, cpu = splits(channels=3), torch.device("cpu")
    mean, std = data.mean.reshape(1, -1, 1, 1), data.std.reshape(1, -1, 1, 1)
    ready = DeviceImages(data.train_images, mean, std, cpu)
    monkeypatch.setattr(device_images, "READY_BYTES", 0)
    lazy = DeviceImages(data.train_images, mean, std, cpu)
    chosen = torch.tensor([3, 1, 7])
    for images in (ready, lazy):
        assert images.inputs(chosen).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(ready.inputs(chosen), lazy.inputs(chosen))
    assert torch.equal(ready.inputs_between(2, 5), lazy.inputs_between(2, 5))
    assert torch.equal(ready.inputs(chosen), ready.normalized(ready.unit(chosen)))


def test_the_order_of_an_epoch_is_moved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the images are not on the GPU, each move waits for the GPU."""
    moved: list[int] = []

    def order(self: DeviceImages, indices: Tensor) -> Tensor:
        moved.append(len(indices))
        return indices.cpu()

    monkeypatch.setattr(DeviceImages, "order", order)
    Training(trial(), splits(train=150)).run_epoch()
    assert moved == [150]


@pytest.mark.parametrize("interrupted_at", [1, 3, 5, 6, 7])
def test_an_epoch_can_be_interrupted_before_each_batch(interrupted_at: int) -> None:
    """It has five batches of training images, one of validation images, and one of clean images."""
    calls = 0

    def interrupted() -> bool:
        nonlocal calls
        calls += 1
        return calls == interrupted_at

    torch.manual_seed(0)
    generator_state = torch.get_rng_state()
    training = Training(trial(label_smoothing=0.1), splits(), interrupted=interrupted)
    with pytest.raises(EpochInterruptedError):
        training.run_epoch()
    assert (calls, training.epoch) == (interrupted_at, 0)
    assert torch.equal(torch.get_rng_state(), generator_state)
