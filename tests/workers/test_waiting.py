"""Training on a GPU does not wait for it within an epoch: shown without one, and on one where there is one.

PyTorch's fake tensors say that they lie on a GPU and compute shapes alone. Every operation passes by here: one
that asks the device for a value, or that copies between host and device, makes a real loop wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from search_spaces.experiment import ExperimentSpec, TrialSpec
from search_spaces.optimizers import Optimizer
from search_spaces.spec import kinds
from workers import pixels, training
from workers.data import Splits
from workers.training import Training

CUDA = "cuda:0"
IMAGES, BATCH, BATCHES = 150, 32, 5
AUGMENTED = {
    "augmentation": {
        "crop_padding": 1,
        "horizontal_flip": 0.5,
        "rotation": 10,
        "brightness": 0.2,
        "contrast": 0.2,
        "sharpness": 0.2,
        "mixup_alpha": 0.3,
    },
    "label_smoothing": 0.1,
    "gradient_clip_norm": 1.0,
}
CROPPED = {"augmentation": {"crop_padding": 1, "horizontal_flip": 0.5}}
SPACES = pytest.mark.parametrize("space", [{}, CROPPED, AUGMENTED], ids=["plain", "cropped", "everything"])
#: Adafactor asks for the norm of every weight at each step, in torch's own code.
UNHURRIED = sorted(set(kinds(Optimizer)) - {"adafactor"})


def trial(optimizer: str = "adam", precision: str = "float32", **space: Any) -> TrialSpec:
    space = {"model": {"kind": "resnet", "width": 4, "depth": 9}, "batch_size": BATCH, "optimizer": optimizer} | space
    return ExperimentSpec(name="t", search_space=space, execution={"precision": precision}).bind({})


def splits() -> Splits:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (IMAGES + 40, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(IMAGES + 40) % 4
    return Splits(
        train_images=images[:IMAGES],
        train_labels=labels[:IMAGES],
        validation_images=images[IMAGES:],
        validation_labels=labels[IMAGES:],
        mean=torch.full((3,), 0.5),
        std=torch.full((3,), 0.3),
        classes=4,
        class_names=tuple("abcd"),
        load_test=lambda: (images, labels),
    )


class Crossings(TorchDispatchMode):
    """What passes between host and device: (operation, does the host go on at once)."""

    VALUES = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
    COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        if func in self.VALUES and "cuda" in given:
            self.seen.append((str(func), False))
        result = func(*args, **kwargs)
        if func in self.COPIES and len(given | {result.device.type}) > 1:
            self.seen.append((str(func), bool(kwargs.get("non_blocking"))))
        return result


class FakeGenerator(torch.Generator):
    device = torch.device(CUDA)


class FiguresAskedError(Exception):
    """The figures of an epoch were asked for."""


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tensors of CUDA without CUDA: what torch refuses without a driver is replaced, none of it is of this project."""
    build_model = training.build_model

    def built_there(*arguments: Any) -> nn.Module:
        with torch.device(CUDA):
            model = build_model(*arguments)
        monkeypatch.setattr(model, "to", lambda *a, **k: model, raising=False)  # fake weights cannot be moved
        return model

    def backward(loss: Tensor) -> None:
        for weight in weights[-1]:
            weight.grad = torch.zeros_like(weight)

    def build_optimizer(spec: Any, model: nn.Module) -> Any:
        weights.append(list(model.parameters()))
        return training_optimizer(spec, model)

    @contextmanager
    def no_generator(self: Training, seed: int) -> Iterator[None]:
        yield

    weights: list[list[nn.Parameter]] = []
    training_optimizer = training.build_optimizer
    monkeypatch.setattr(training, "build_model", built_there)
    monkeypatch.setattr(training, "build_optimizer", build_optimizer)
    monkeypatch.setattr(Training, "_global_generator", no_generator)
    monkeypatch.setattr(pixels, "_room", lambda device: 2**40)
    monkeypatch.setattr(torch, "Generator", lambda device=None: FakeGenerator())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch, "_fused_sgd_", lambda *arguments, **options: None)  # has no fake
    monkeypatch.setattr(Tensor, "backward", backward)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    with FakeTensorMode():
        yield


def crossings_of_an_epoch(running: Training, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    original = Tensor.cpu

    def asked(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.float64:  # the figures
            raise FiguresAskedError
        return original(tensor)

    monkeypatch.setattr(Tensor, "cpu", asked)
    with pytest.raises(FiguresAskedError):  # the first step of a trial makes the optimizer's state
        running._train()
    with Crossings() as crossings, pytest.raises(FiguresAskedError):
        running._train()
    assert running.schedule._done == 2 * BATCHES
    return crossings.seen


@pytest.mark.usefixtures("fake_gpu")
@SPACES
def test_nothing_passes_between_host_and_device_until_the_epochs_figures(
    space: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Training(trial(**space), splits(), CUDA)
    assert running._images._raw.device.type == "cuda"
    assert crossings_of_an_epoch(running, monkeypatch) == []


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("optimizer", UNHURRIED)
def test_no_optimizer_waits(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Training(trial(optimizer, model={"kind": "cnn", "width": 4, "depth": 1}), splits(), CUDA)
    assert crossings_of_an_epoch(running, monkeypatch) == []


@pytest.mark.usefixtures("fake_gpu")
@SPACES
def test_images_that_do_not_fit_follow_without_waiting(space: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_room", lambda device: 0)
    running = Training(trial(**space), splits(), CUDA)
    assert running._images._raw.device.type == "cpu"
    order, *moved = crossings_of_an_epoch(running, monkeypatch)
    assert not order[1], "the epoch's order is fetched once"
    assert [at_once for _, at_once in moved] == [True] * BATCHES


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("resident", [True, False])
def test_an_evaluation_asks_for_its_two_sums_alone(resident: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_room", lambda device: 2**40 if resident else 0)
    monkeypatch.setitem(training.EVALUATED_PIXELS, "cuda", 16)
    running = Training(trial(), splits(), CUDA)
    with Crossings() as crossings, pytest.raises(DataDependentOutputException):
        running._evaluate(running._validation, running._validation_labels)
    assert [at_once for _, at_once in crossings.seen] == [True] * (0 if resident else 3) + [False]
    assert "_local_scalar_dense" in crossings.seen[-1][0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@SPACES
def test_an_epoch_on_a_gpu_does_not_wait_within(
    space: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Training(trial(precision=precision, **space), splits(), "cuda")
    running.run_epoch()
    original = Tensor.cpu

    def allowed(tensor: Tensor) -> Tensor:
        torch.cuda.set_sync_debug_mode("default")
        return original(tensor)

    monkeypatch.setattr(Tensor, "cpu", allowed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        running._train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
