"""Training does not wait for the GPU within an epoch, and computes as the spec says: tested without a GPU and, if there
is one, on it.

PyTorch's fake tensors report that they are on a GPU, and compute shapes only. These tests see every operation: one that
reads a value from the device, or copies between host and device, makes a real loop wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from search_spaces.experiment import Execution, ExperimentSpec, TrialSpec
from search_spaces.optimizers import Optimizer
from tests.support import trainings
from tests.support.families import kinds
from workers.data.splits import Splits
from workers.training import device_images, loop
from workers.training.loop import Training
from workers.training.precision import ComputeMode

CUDA = "cuda:0"
IMAGES, BATCH, BATCHES = 150, 32, 5
GPU_BYTES = (70 * 10**9, 80 * 10**9)  # free, in all
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
BALANCED = {"class_weights": "balanced", "balanced_sampling": True}
SPACES = pytest.mark.parametrize(
    "space", [{}, CROPPED, AUGMENTED, BALANCED], ids=["plain", "cropped", "everything", "balanced"]
)
#: All except Adafactor: torch's code for it reads the norm of every weight at each step.
WITHOUT_WAITING = sorted(set(kinds(Optimizer)) - {"adafactor"})


def trial(optimizer: str = "adam", precision: str = "float32", deterministic: bool = False, **space: Any) -> TrialSpec:
    space = {"model": {"kind": "resnet", "width": 4, "depth": 9}, "batch_size": BATCH, "optimizer": optimizer} | space
    execution = Execution(precision=precision, deterministic=deterministic)
    return ExperimentSpec(name="t", search_space=space, execution=execution).bind({})


def splits() -> Splits:
    return trainings.splits(IMAGES, 40, channels=3)


class Crossings(TorchDispatchMode):
    """The transfers between host and device: (operation, whether the host continues at once)."""

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


class ResultsReadError(Exception):
    """The results of an epoch were read from the device."""


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CUDA tensors without CUDA. What torch refuses without a driver is replaced."""
    build_model = loop.build_model

    def build_on_gpu(*arguments: Any) -> nn.Module:
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
    def no_generator(self: ComputeMode, seed: int) -> Iterator[None]:
        yield

    weights: list[list[nn.Parameter]] = []
    training_optimizer = loop.build_optimizer
    monkeypatch.setattr(loop, "build_model", build_on_gpu)
    monkeypatch.setattr(loop, "build_optimizer", build_optimizer)
    monkeypatch.setattr(ComputeMode, "seeded", no_generator)
    for name, value in {
        "memory_allocated": 0,
        "get_per_process_memory_fraction": 1.0,
        "mem_get_info": GPU_BYTES,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch, "Generator", lambda device=None: FakeGenerator())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch, "_fused_sgd_", lambda *arguments, **options: None)  # torch has no fake of it
    monkeypatch.setattr(Tensor, "backward", backward)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    with FakeTensorMode():
        yield


def crossings_of_an_epoch(
    running: Training, monkeypatch: pytest.MonkeyPatch, epoch: Callable[[], object] | None = None
) -> list[tuple[str, bool]]:
    epoch = epoch or running._train
    original = Tensor.cpu

    def cpu(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.float64:  # only the results of an epoch are
            raise ResultsReadError
        return original(tensor)

    monkeypatch.setattr(Tensor, "cpu", cpu)
    with pytest.raises(ResultsReadError):  # the first step of a trial creates the optimizer's state
        epoch()
    with Crossings() as crossings, pytest.raises(ResultsReadError):
        epoch()
    assert running.schedule._done == 2 * BATCHES
    return crossings.seen


@pytest.mark.usefixtures("fake_gpu")
@SPACES
def test_nothing_passes_between_host_and_device_before_the_results_of_the_epoch(
    space: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Training(trial(**space), splits(), CUDA)
    assert running._images._raw.device.type == "cuda"
    assert crossings_of_an_epoch(running, monkeypatch) == []


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("optimizer", WITHOUT_WAITING)
def test_no_optimizer_waits(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    running = Training(trial(optimizer, model={"kind": "cnn", "width": 4, "depth": 1}), splits(), CUDA)
    assert crossings_of_an_epoch(running, monkeypatch) == []


@pytest.mark.usefixtures("fake_gpu")
@SPACES
def test_images_that_do_not_fit_are_moved_without_waiting(
    space: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_images, "_room", lambda device: 0)
    running = Training(trial(**space), splits(), CUDA)
    assert running._images._raw.device.type == "cpu"
    order, *moved = crossings_of_an_epoch(running, monkeypatch)
    assert not order[1], "the order of the epoch must be read from the device once"
    assert [at_once for _, at_once in moved] == [True] * BATCHES


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("resident", [True, False])
def test_an_evaluation_reads_only_its_two_sums(resident: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_images, "_room", lambda device: 2**40 if resident else 0)
    monkeypatch.setitem(loop.EVALUATED_PIXELS, "cuda", 16)
    running = Training(trial(), splits(), CUDA)
    with Crossings() as crossings, pytest.raises(DataDependentOutputException):
        running._evaluate(running._validation, running._validation_labels)
    assert [at_once for _, at_once in crossings.seen] == [True] * (0 if resident else 3) + [False]
    assert "_local_scalar_dense" in crossings.seen[-1][0]


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize(
    ("share", "used_bytes", "free_bytes", "resident"),
    [
        (1.0, 0, 70e9, True),
        (0.1, 0, 70e9, False),  # 12 GB of images exceed the share of 8 GB
        (0.7, 0, 70e9, True),
        (0.7, 10e9, 70e9, False),  # the share is in use
        (1.0, 0, 20e9, False),  # other trials use the rest
    ],
)
def test_images_move_to_the_gpu_if_they_fit_into_a_quarter_of_the_trials_memory(
    share: float, used_bytes: float, free_bytes: float, resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: share)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: used_bytes)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_bytes, 80 * 10**9))
    images = torch.empty((12 * 10**9 // (3 * 64 * 64), 3, 64, 64), dtype=torch.uint8)
    zeros = torch.zeros(1, 3, 1, 1)
    on_device = device_images.DeviceImages(images, zeros, zeros, torch.device(CUDA))
    assert (on_device._raw.device.type == "cuda") == resident


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize(("free_bytes", "ready"), [(10**9, True), (5 * 10**8, False)])
def test_images_are_normalized_once_only_if_the_copy_fits_too(
    free_bytes: int, ready: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images take 30 MB, and their normalized copy 120 MB."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_bytes, 80 * 10**9))
    images = torch.empty((10_000, 3, 32, 32), dtype=torch.uint8)
    zeros = torch.zeros(1, 3, 1, 1, device=CUDA)
    on_device = device_images.DeviceImages(images, zeros, zeros, torch.device(CUDA))
    assert on_device._raw.device.type == "cuda"
    assert (on_device._ready is not None) == ready


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(
    ("precision", "computed"), [("auto", torch.bfloat16), ("float32", None), ("float16", torch.float16)]
)
def test_training_and_evaluation_compute_as_the_spec_says(
    precision: str, computed: torch.dtype | None, deterministic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Training(trial(precision=precision, deterministic=deterministic), splits(), CUDA)
    settings: list[tuple[bool, bool, bool, torch.dtype | None]] = []

    def record(*_: Any) -> None:
        half = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        tf32, benchmark = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
        settings.append((torch.are_deterministic_algorithms_enabled(), benchmark, tf32, half))

    running.model.register_forward_pre_hook(record)
    expected = (deterministic, not deterministic, precision != "float32", computed)
    crossings_of_an_epoch(running, monkeypatch, running.run_epoch)
    assert settings == [expected] * 2 * BATCHES
    settings.clear()
    with pytest.raises(DataDependentOutputException):
        running.evaluate(splits().validation_images, splits().validation_labels)
    assert settings == [expected]
    assert running._scaler.is_enabled() == (precision == "float16")
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@SPACES
def test_an_epoch_on_a_gpu_does_not_wait_before_its_results(
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
