"""Grouped: computations that the processes of a group do together, as one process does them.

`python -m tests.support.grouped FOLDER RANK SIZE` is one of the processes. It computes every case and saves what it
found as `FOLDER/RANK.pt`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torchvision.ops import StochasticDepth

from tests.support.trainings import EVERY_AUGMENTATION, RANDOM_ALL_OVER, TIMES, splits, trial
from workers.training.group import Group
from workers.training.loop import Training
from workers.training.whole_batch import over_whole_batches

Found = Mapping[str, Tensor]
IMAGES, CHANNELS, SIDE = 7, 3, 4
STEPS = 3


def of_layer(make: Callable[[], nn.Module], size: tuple[int, ...], group: Group) -> Found:
    """Outputs and gradients of some batches in double precision, and what the layer holds after them."""
    layer, generator = make().double(), torch.Generator().manual_seed(3)
    found: dict[str, Tensor] = {}
    torch.manual_seed(4)
    for step in range(STEPS):
        part = group.part = group.divide(size[0])
        images = torch.randn(size, dtype=torch.float64, generator=generator) * 2 + 5
        slope = torch.randn(size, dtype=torch.float64, generator=generator)
        own = images[part.images].clone().requires_grad_()
        with over_whole_batches(layer, group):
            output = layer(own)
        (output * slope[part.images]).sum().backward()
        assert own.grad is not None
        for name, values in (("output", output.detach()), ("gradient", own.grad)):
            whole = torch.zeros(size, dtype=torch.float64)
            whole[part.images] = values / part.times
            found[f"{name} {step}"] = group.sum(whole)
    for name, weight in layer.named_parameters():
        assert weight.grad is not None
        found[f"gradient of {name}"] = group.sum(weight.grad / group.part.times)
    return found | {name: values.clone() for name, values in layer.state_dict().items()}


def of_training(train: int, space: Mapping[str, Any], group: Group) -> Found:
    """The metrics of two epochs without times, the weights after them, and which validation images are right."""
    torch.set_num_threads(1)
    given = {"optimizer": {"kind": "sgd", "lr": 0.02, "momentum": 0.9}, **space}
    training = Training(trial(**given), splits(train=train, validation=41), group=group)
    found: dict[str, Tensor] = {}
    for epoch in (1, 2):
        metrics = training.run_epoch()
        found |= {f"{name} of epoch {epoch}": torch.tensor(metrics[name]) for name in metrics.keys() - TIMES}
    assert training.best_right is not None
    weights = {name: values.clone() for name, values in training.weights().items()}
    return found | weights | {"right": training.best_right, "generator": training.state_dict()["generator"]}


def _batch_norm(cls: type[Any], **options: Any) -> nn.Module:
    layer: nn.Module = cls(CHANNELS, **options)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(torch.linspace(0.5, 2, CHANNELS))
    return layer


PICTURES = (IMAGES, CHANNELS, SIDE, SIDE)
DEEP = {"model": {"kind": "resnet", "depth": 8, "width": 4}}
CASES: dict[str, Callable[[Group], Found]] = {
    "batch norm": partial(of_layer, partial(_batch_norm, nn.BatchNorm2d), PICTURES),
    "batch norm of vectors": partial(of_layer, partial(_batch_norm, nn.BatchNorm1d), (IMAGES, CHANNELS)),
    "batch norm, mean of all batches": partial(of_layer, partial(_batch_norm, nn.BatchNorm2d, momentum=None), PICTURES),
    "batch norm without weights": partial(of_layer, partial(_batch_norm, nn.BatchNorm2d, affine=False), PICTURES),
    "batch norm of two images": partial(of_layer, partial(_batch_norm, nn.BatchNorm2d), (2, *PICTURES[1:])),
    "dropout": partial(of_layer, partial(nn.Dropout, 0.3), PICTURES),
    "dropout of channels": partial(of_layer, partial(nn.Dropout2d, 0.3), PICTURES),
    "dropout of two images": partial(of_layer, partial(nn.Dropout, 0.3), (2, *PICTURES[1:])),
    "stochastic depth": partial(of_layer, partial(StochasticDepth, 0.3, "row"), PICTURES),
    "stochastic depth of batches": partial(of_layer, partial(StochasticDepth, 0.3, "batch"), PICTURES),
    "a plain trial": partial(of_training, 150, {}),
    "a trial with all that is random": partial(of_training, 150, RANDOM_ALL_OVER),
    "a trial with every augmentation": partial(of_training, 150, {"augmentation": EVERY_AUGMENTATION}),
    "a residual network with Adam": partial(of_training, 150, {**DEEP, "optimizer": {"kind": "adam", "lr": 0.001}}),
    "a trial with layer normalization": partial(of_training, 150, {"normalization": "layer"}),
    "a trial whose last batch has two images": partial(of_training, 130, {}),
    "a trial whose last batch has one image": partial(of_training, 129, {}),
}


def together(folder: Path, size: int) -> list[dict[str, Found]]:
    """What each of `size` processes found, by case."""
    command = [sys.executable, "-W", "error", "-m", "tests.support.grouped", str(folder)]
    processes = [subprocess.Popen([*command, str(rank), str(size)]) for rank in range(size)]
    try:
        assert [process.wait(timeout=280) for process in processes] == [0] * size
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def _main(folder: Path, rank: int, size: int) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting-point", rank=rank, world_size=size)
    torch.save({name: dict(case(Group(rank, size))) for name, case in CASES.items()}, folder / f"{rank}.pt")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
