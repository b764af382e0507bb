"""Loops: images per second of a trial's training loop, of a bare loop written by hand, and of trials that share a GPU.

`python -m tests.gpu.loops DEVICE SHARE SECONDS` is one of the processes that share it. The images are synthetic and
have the shape of CIFAR-10: the speed does not depend on their content.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from search_spaces.experiment import ExperimentSpec, TrialSpec
from tests.support.trainings import EVERY_AUGMENTATION, splits
from workers.data.splits import Splits
from workers.models.build import build_model
from workers.targets import resolve_target
from workers.training.loop import EpochInterruptedError, Training
from workers.training.precision import ComputeMode
from workers.trial.device import select_device
from workers.trial.shared_memory import MemoryShare

CROP_AND_FLIP = {"crop_padding": 4, "horizontal_flip": 0.5}
EVERYTHING = EVERY_AUGMENTATION | CROP_AND_FLIP
SHARE_SLACK = 1.05  # a request for this multiple of the share must fail


@dataclass(frozen=True)
class Size:
    """How much is measured. On the CPU it is so little that it only tests the code."""

    images: int
    width: int
    batches: tuple[int, ...]
    sharing_batch: int
    warm_s: float
    measured_s: float
    rounds: int
    sharing_s: float
    processes: tuple[int, ...] = (1, 2, 4, 8)


SIZES = {
    "cuda": Size(49_152, 64, (128, 512, 2048), 512, 2.0, 2.0, 3, 12.0),
    "cpu": Size(64, 2, (32,), 32, 0.1, 0.1, 1, 0.2, (1, 2)),
}


def spec_of(device: str, batch: int, augmentation: dict[str, Any] | str, share: float = 1.0) -> TrialSpec:
    """ResNet-9 with SGD. `share` is the share of the GPU that each process has."""
    space = {
        "model": {"kind": "resnet", "depth": 9, "width": SIZES[device].width},
        "optimizer": "sgd",
        "batch_size": batch,
        "augmentation": augmentation,
    }
    bound = ExperimentSpec.model_validate({"name": "gpu", "search_space": space}).bind({})
    return bound.model_copy(update={"gpus": share if device == "cuda" else 0})


def data(device: str) -> Splits:
    return splits(SIZES[device].images, 64, channels=3, side=32, classes=10)


class Measured:
    """A trial that trains for a given time and then stops in the middle of an epoch."""

    def __init__(self, spec: TrialSpec, images: Splits, device: str) -> None:
        self._deadline = 0.0
        self._batch = spec.hyperparameters.batch_size
        self._device = device
        self._training = Training(spec, images, device, interrupted=lambda: time.perf_counter() >= self._deadline)

    def images_per_second(self, seconds: float) -> float:
        started = time.perf_counter()
        self._deadline = started + seconds
        batches = 0
        try:
            while True:
                self._training.batch = 0
                self._training.run_epoch()
                batches += self._training.batches
        except EpochInterruptedError:
            batches += self._training.batch
        synchronize(self._device)
        return batches * self._batch / (time.perf_counter() - started)


class Bare:
    """A loop as written by hand: normalized tensors on the device, a permutation, autocast, a torch optimizer."""

    def __init__(self, spec: TrialSpec, images: Splits, device: str) -> None:
        space = spec.hyperparameters
        self._device = device
        self._batch = space.batch_size
        mean, std = (statistic.reshape(1, -1, 1, 1) for statistic in (images.mean, images.std))
        unit = (images.train_images.float() / 255 - mean) / std
        self._images = unit.to(device).contiguous(memory_format=torch.channels_last)
        self._labels = images.train_labels.to(device)
        self._model = build_model(space.model, space.normalization, 3, 10, 32)
        self._model.to(device).to(memory_format=torch.channels_last)
        target, arguments = resolve_target(space.optimizer.target), space.optimizer.arguments()
        self._optimizer = target(self._model.parameters(), **arguments, fused=True)
        compute = ComputeMode(spec.execution, torch.device(device))
        self._autocast: Callable[[], AbstractContextManager[Any]] = compute.autocast
        self._algorithms = compute.algorithms if device == "cuda" else nullcontext

    def images_per_second(self, seconds: float) -> float:
        self._model.train()
        started, trained = time.perf_counter(), 0
        with self._algorithms():
            while time.perf_counter() < started + seconds:
                order = torch.randperm(len(self._images), device=self._device)
                for chosen in order.split(self._batch):
                    if time.perf_counter() >= started + seconds:
                        break
                    trained += self._step(chosen)
            synchronize(self._device)
        return trained / (time.perf_counter() - started)

    def _step(self, chosen: torch.Tensor) -> int:
        self._optimizer.zero_grad()
        with self._autocast():
            logits = self._model(self._images[chosen])
            loss = functional.cross_entropy(logits, self._labels[chosen])
        loss.backward()
        self._optimizer.step()
        return len(chosen)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def loop_table(device: str, log: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for each batch size and loop: images per second, and the ratio to the bare loop. The loops take turns."""
    size, images, rows = SIZES[device], data(device), []
    torch.set_num_threads(1)  # the host only launches kernels; a rehearsal on the CPU must not use all cores
    for batch in size.batches:
        loops: dict[str, Bare | Measured] = {
            "bare loop": Bare(spec_of(device, batch, "none"), images, device),
            "trial": Measured(spec_of(device, batch, "none"), images, device),
            "trial, crop and flip": Measured(spec_of(device, batch, CROP_AND_FLIP), images, device),
            "trial, all augmentations and mixup": Measured(spec_of(device, batch, EVERYTHING), images, device),
        }
        for loop in loops.values():
            loop.images_per_second(size.warm_s)
        rounds = [
            {name: loop.images_per_second(size.measured_s) for name, loop in loops.items()} for _ in range(size.rounds)
        ]
        speeds = {name: statistics.median(measured[name] for measured in rounds) for name in loops}
        for name, speed in speeds.items():
            row = {"batch": batch, "loop": name, "images_per_second": speed, "ratio": speed / speeds["bare loop"]}
            rows.append(row)
            log(f"batch {batch}, {name}: {speed:,.0f} images/s, {row['ratio']:.2f} of the bare loop")
    return rows


def share_device(device: str, share: float, seconds: float) -> dict[str, Any]:
    """Train on this process's share of the GPU after a line on standard input. Returns the speed and the memory use."""
    torch.set_num_threads(1)
    spec = spec_of(device, SIZES[device].sharing_batch, CROP_AND_FLIP, share)
    select_device(spec)
    MemoryShare(share if device == "cuda" else 1.0).cap()
    measured = Measured(spec, data(device), device)
    measured.images_per_second(SIZES[device].warm_s)
    print("ready", flush=True)
    sys.stdin.readline()
    result: dict[str, Any] = {"images_per_second": measured.images_per_second(seconds)}
    if device == "cuda":
        total_bytes = torch.cuda.mem_get_info()[1]
        result["share_bytes"] = int(share * total_bytes)
        result["peak_bytes"] = torch.cuda.max_memory_reserved()
        result["cap_enforced"] = share == 1.0 or _is_refused(int(share * total_bytes * SHARE_SLACK))
    return result


def _is_refused(size_bytes: int) -> bool:
    """Whether the GPU refuses to allocate so much memory."""
    try:
        torch.empty(size_bytes, dtype=torch.uint8, device="cuda")
    except torch.OutOfMemoryError:
        return True
    return False


if __name__ == "__main__":
    print(json.dumps(share_device(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))), flush=True)
