"""A trial on a GPU: what augmentation costs, speed and memory by batch size, several trials sharing the device.

Run: python -m pytest tests/benchmarks/test_gpu.py --override-ini addopts=--import-mode=importlib -s

Each runs twice: on CUDA at full size, skipped without such a device, and on the CPU at a size that measures
nothing, so that the code is known to work before somebody has a GPU for an hour. That no epoch waits for the
device is tested in `tests/workers/test_waiting.py`. Made-up images of
CIFAR-10's shape will do: speed does not look at them.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from search_spaces.experiment import ExperimentSpec
from tests.support.trainings import splits
from workers.training.loop import Training

AUGMENTED = {"crop_padding": 4, "horizontal_flip": 0.5}
EVERYTHING = AUGMENTED | {
    "rotation": 15.0,
    "translation": 0.1,
    "scaling": 0.1,
    "shear": 5.0,
    "brightness": 0.2,
    "contrast": 0.2,
    "sharpness": 0.3,
    "mixup_alpha": 0.4,
}
FLOOR = 0.9  # of the speed without augmentation


@dataclass(frozen=True)
class Size:
    images: int
    width: int
    batches: tuple[int, ...]
    typical: int
    rounds: int
    sharing: tuple[int, ...]


SIZES = {
    "cuda": Size(49_152, 64, (128, 256, 512, 1024, 2048, 4096), 512, 5, (2, 4, 8)),
    "cpu": Size(192, 2, (64, 128), 64, 1, (2,)),
}
absent = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
pytestmark = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, absent])])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def resnet9(device: str, batch: int, augmentation: dict[str, Any] | None = None) -> Training:
    size = SIZES[device]
    space = {
        "model": {"kind": "resnet", "depth": 9, "width": size.width},
        "optimizer": "sgd",
        "batch_size": batch,
        "augmentation": augmentation or "none",
    }
    spec = ExperimentSpec(name="benchmark", search_space=space, max_epochs=1000).bind({})
    return Training(spec, splits(size.images, 64, channels=3, side=32, classes=10), device)


def seconds(training: Training) -> float:
    """Of a whole pass over the training images; the pass ends by reading its figures, which waits for the device."""
    started = time.perf_counter()
    figures = training._train()
    passed = time.perf_counter() - started
    assert math.isfinite(figures["train_loss"])
    return passed


@pytest.mark.parametrize("changes", [AUGMENTED, EVERYTHING], ids=["crop and flip", "everything"])
def test_augmentation_takes_at_most_a_tenth(device: str, changes: dict[str, Any]) -> None:
    size = SIZES[device]
    for batch in sorted({size.batches[0], size.typical, size.batches[-1]}):
        plain, augmented = resnet9(device, batch), resnet9(device, batch, changes)
        seconds(plain), seconds(augmented)
        pairs = [(seconds(plain), seconds(augmented)) for _ in range(size.rounds)]
        without, with_it = (statistics.median(times) for times in zip(*pairs, strict=True))
        print(
            f"\nResNet-9 on 32x32 colour, batch {batch}, {device}: {size.images / without:,.0f} images/s plain, "
            f"{size.images / with_it:,.0f} with {', '.join(changes)}: {without / with_it:.3f} "
            f"(median of {size.rounds} passes each, in turn)"
        )
        if device == "cuda" and batch == size.typical:
            assert without / with_it >= FLOOR


def test_speed_and_memory_by_batch_size(device: str) -> None:
    size = SIZES[device]
    for batch in size.batches:
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        training = resnet9(device, batch, AUGMENTED)
        seconds(training)
        passed = statistics.median(seconds(training) for _ in range(size.rounds))
        peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else math.nan
        print(f"\nbatch {batch}, {device}: {size.images / passed:,.0f} images/s, at most {peak:,.0f} MiB allocated")
        del training


class Sharer:
    """A process with `trials` trials, trained one after another; `mates` processes share the device."""

    def __init__(self, device: str, trials: int, mates: int) -> None:
        command = [sys.executable, __file__, device, str(trials), str(mates)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def hear(self, word: str) -> None:
        assert self.process.stdout is not None
        heard = self.process.stdout.readline().strip()
        assert heard == word, f"{word} expected of {self.process.args}, got {heard!r}"

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()


def together(device: str, trials: int, processes: int) -> float:
    """Seconds in which so many processes train `trials` trials in all, from a common start to the last's end."""
    sharers = [Sharer(device, trials // processes, processes) for _ in range(processes)]
    try:
        for sharer in sharers:
            sharer.hear("ready")
        started = time.perf_counter()
        for sharer in sharers:
            sharer.go()
        for sharer in sharers:
            sharer.hear("done")
        return time.perf_counter() - started
    finally:
        for sharer in sharers:
            sharer.process.kill()
            sharer.process.communicate()


def test_trials_that_share_a_device(device: str) -> None:
    for trials in SIZES[device].sharing:
        alone, shared = together(device, trials, 1), together(device, trials, trials)
        print(
            f"\n{trials} trials, {device}: {alone:.1f} s one after another, {shared:.1f} s sharing it in {trials} "
            f"processes: {alone / shared:.2f} times as fast"
        )


def main(device: str, trials: int, mates: int) -> None:
    """One sharer: warm when it says ready, then a pass for each trial."""
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(1 / mates)
    torch.set_num_threads(1)
    trainings = [resnet9(device, SIZES[device].typical, AUGMENTED) for _ in range(trials)]
    for training in trainings:
        seconds(training)
    print("ready", flush=True)
    input()
    for training in trainings:
        for _ in range(SIZES[device].rounds):
            seconds(training)
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
