"""Content: what the plots of a spec show. Each is written as a PNG.

Owns the values in the plots; `workers.plots.figures` draws them. Learning rates, optimizer steps and images come from
the code that trains, so the plots show what training does. It must not know Ray, MLflow or the service.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from search_spaces.augmentation import AugmentationSpec
from search_spaces.normalization import Batch, Group, Instance, Layer, NoNormalization, NormalizationSpec
from search_spaces.optimizers import SGD, Adagrad, Adam, NAdam, OptimizerSpec, RMSProp
from search_spaces.phrases import counted
from search_spaces.schedulers import SchedulerSpec
from search_spaces.spec import Spec
from workers.data.splits import Splits
from workers.plots import figures
from workers.plots.figures import Cells, Path2D
from workers.targets import resolve_target
from workers.training.augment import Augmentation
from workers.training.random_streams import random_stream
from workers.training.schedule import Schedule

Mode = Literal["min", "max"]

START, MINIMUM = (-1.2, 1.0), (1.0, 1.0)  # of Rosenbrock's function
LARGEST_TILE = 128  # pixels

NORMALIZATIONS = (Batch(), Layer(), Instance(), Group(groups=2), NoNormalization())

#: Each has a learning rate that suits the function: with one rate for all, the plot would compare how the rate suits.
CLASSIC_OPTIMIZERS: tuple[tuple[str, OptimizerSpec], ...] = (
    ("gradient descent", SGD(lr=1e-3, momentum=0.0, nesterov=False)),
    ("momentum", SGD(lr=1e-3, momentum=0.9, nesterov=False)),
    ("Nesterov momentum", SGD(lr=1e-3, momentum=0.9, nesterov=True)),
    ("RMSProp", RMSProp(lr=2e-2)),
    ("Adam", Adam(lr=2e-1)),
    ("NAdam", NAdam(lr=8e-2)),
    ("Adagrad", Adagrad(lr=0.5)),
)


def schedulers(
    specs: Sequence[SchedulerSpec], epochs: int, batches: int, out: Path, lr: float = 1.0, mode: Mode = "max"
) -> Path:
    """Learning rate against epochs, a panel for each spec. `mode`: the objective's."""
    panels = [(title(spec), rates(spec, epochs, batches, lr, mode)) for spec in specs]
    caption = (
        f"Learning rate over {counted(epochs, 'epoch')}, drawn at {counted(batches, 'batch', 'batches')} in each, base "
        f"rate {lr:g}"
    )
    if any(spec.monitors for spec in specs):
        caption += "; plateau: as if the objective stopped improving after a third of the epochs"
    return figures.curves(panels, caption, "epoch", "learning rate", out / "schedulers.png")


def optimizers(out: Path, steps: int = 300, specs: Sequence[tuple[str, OptimizerSpec]] = CLASSIC_OPTIMIZERS) -> Path:
    """Paths on Rosenbrock's function, a panel for each (name, optimizer), with start, end and minimum marked."""
    x, y = np.linspace(-1.8, 1.8, 181), np.linspace(-0.8, 2.2, 151)
    heights = np.log10(rosenbrock(*np.meshgrid(x, y)) + 1e-3)
    panels = []
    for name, spec in specs:
        points = descent(spec, steps)
        panels.append(Path2D(f"{name}, lr {spec.lr:g}", points, f"f = {rosenbrock(*points[-1]):.1e}"))  # type: ignore[attr-defined]
    function = "f(x, y) = (1 - x)² + 100 (y - x²)²"
    caption = f"{counted(steps, 'step')} on Rosenbrock's function {function}, each optimizer at its own learning rate"
    return figures.paths(panels, (x, y, heights), MINIMUM, caption, out / "optimizers.png")


def normalization(out: Path, specs: Sequence[NormalizationSpec] = NORMALIZATIONS) -> Path:
    """Which values share one mean and deviation: a panel for each spec, with a block of N images of C channels of
    H x W pixels.

    The block has six channels, so four groups or more are drawn as one channel each.
    """
    batch, channels, pixels = 4, 6, 5
    shared: dict[str, tuple[int, int, int]] = {}
    for spec in specs:
        match spec:
            case Batch():
                shared["batch: over N, H, W"] = batch, 1, pixels
            case Layer():
                shared["layer: over C, H, W"] = 1, channels, pixels
            case Instance():
                shared["instance: over H, W"] = 1, 1, pixels
            case Group():
                shared[f"group: over C/{spec.groups}, H, W"] = 1, max(1, channels // spec.groups), pixels
            case NoNormalization():
                shared["none"] = 0, 0, 0
            case _:
                raise ValueError(f"there is no plot of the normalization {title(spec)}")
    panels = [(title, list(_block((batch, channels, pixels), marked))) for title, marked in shared.items()]
    caption = "Normalization: the marked values share one mean and one standard deviation"
    return figures.blocks(panels, ("N: images", "C: channels", "H, W: pixels"), caption, out / "normalization.png")


def augmentation(spec: AugmentationSpec, splits: Splits, out: Path, rows: int = 6, seed: int = 0) -> Path:
    """A sheet: each row is a training image and eight changed copies of it, as training would see them."""
    copies = 8
    chosen = [int((splits.train_labels == label).nonzero()[0]) for label in range(min(rows, splits.classes))]
    originals = splits.train_images[chosen].float() / 255
    repeated = originals.repeat_interleave(copies, dim=0)
    augmented = Augmentation(spec, originals.shape[-1], "cpu").epoch(len(repeated), partial(random_stream, seed, 1))
    labels = splits.train_labels[chosen].repeat_interleave(copies)
    changed, _ = augmented.mix(augmented.change(repeated), functional.one_hot(labels, splits.classes).float())
    names = [splits.class_names[int(splits.train_labels[index])] for index in chosen]
    strengths = [f"{name} {value:g}" for name, value in spec.model_dump().items() if value]
    caption = f"Original, then {copies} random changes: {', '.join(strengths) or 'nothing is changed'}"
    if spec.mixup_alpha:
        caption += "\n(mixup may replace most of an image, and of its label, by another)"
    return figures.sheet(
        _sheet(originals, changed.reshape(len(chosen), copies, *changed.shape[1:])),
        names,
        copies + 1,
        caption,
        out / "augmentation.png",
    )


def rates(
    spec: SchedulerSpec, epochs: int, batches: int, lr: float, mode: Mode = "max"
) -> tuple[list[float], list[float]]:
    """The epoch and the learning rate of every batch, from the schedule that training uses.

    The objective improves for the first third of the epochs and not after.
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = Schedule(spec, optimizer, batches, epochs, lr, mode)
    sign = 1 if mode == "max" else -1
    times, values = [], []
    for epoch in range(epochs):
        for batch in range(batches):
            times.append(epoch + batch / batches)
            values.append(float(optimizer.param_groups[0]["lr"]))
            schedule.batch_done()
        schedule.epoch_done(sign * min(epoch, epochs / 3))
    return times, values


def descent(spec: OptimizerSpec, steps: int) -> list[tuple[float, float]]:
    """The points that an optimizer visits on Rosenbrock's function, including the start."""
    point = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    optimizer = resolve_target(spec.target)([point], **spec.arguments())
    visited = [START]
    for _ in range(steps):
        optimizer.zero_grad()
        x, y = point
        ((1 - x) ** 2 + 100 * (y - x**2) ** 2).backward()
        optimizer.step()
        visited.append((point[0].item(), point[1].item()))
        if not all(math.isfinite(value) and abs(value) < 1e3 for value in visited[-1]):
            break
    return visited


def rosenbrock(x: NDArray[np.float64] | float, y: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Rosenbrock, 1960: a curved valley with a nearly flat floor; the minimum is 0 at (1, 1)."""
    return np.asarray((1 - x) ** 2 + 100 * (y - x**2) ** 2)


def title(spec: Spec) -> str:
    """The kind of a spec and its fields that differ from their defaults."""
    changed = spec.model_dump(exclude={"kind"}, exclude_defaults=True)
    kind = str(getattr(spec, "kind", type(spec).__name__))
    return ", ".join([kind, *(f"{name} {value}" for name, value in changed.items())])


def _block(size: tuple[int, int, int], marked: tuple[int, int, int]) -> Iterator[Cells]:
    """The visible faces of a block of unit cubes, back to front, seen from above at an angle.

    The marked cubes fill the corner nearest to the viewer. Images lie along the axis to the right, channels along the
    axis to the back, pixels downwards.
    """
    images, channels, pixels = size

    def at(n: float, c: float, p: float) -> tuple[float, float]:
        return n + 0.5 * c, 0.35 * c - p

    def is_marked(n: int, c: int, p: int) -> bool:
        return n >= images - marked[0] and c < marked[1] and p < marked[2]

    for c in reversed(range(channels)):
        for n in range(images):
            yield Cells("top", is_marked(n, c, 0), (at(n, c, 0), at(n + 1, c, 0), at(n + 1, c + 1, 0), at(n, c + 1, 0)))
        for p in range(pixels):
            corners = (at(images, c, p), at(images, c + 1, p), at(images, c + 1, p + 1), at(images, c, p + 1))
            yield Cells("side", is_marked(images - 1, c, p), corners)
    for n in range(images):
        for p in range(pixels):
            corners = (at(n, 0, p), at(n + 1, 0, p), at(n + 1, 0, p + 1), at(n, 0, p + 1))
            yield Cells("front", is_marked(n, 0, p), corners)


def _sheet(originals: Tensor, changed: Tensor) -> NDArray[np.uint8]:
    """One image [height, width, 3] of [R, C, H, W] originals and [R, K, C, H, W] changed copies, with white gaps."""
    tiles = torch.cat((originals[:, None], changed), dim=1).clamp(0, 1)
    step = math.ceil(tiles.shape[-1] / LARGEST_TILE)
    tiles = tiles[..., ::step, ::step]
    tiles = tiles.expand(-1, -1, 3, -1, -1) if tiles.shape[2] == 1 else tiles
    scale = max(1, 56 // tiles.shape[-1])
    tiles = tiles.repeat_interleave(scale, dim=3).repeat_interleave(scale, dim=4)
    gap = max(2, tiles.shape[-1] // 14)
    tiles = functional.pad(tiles, (gap, gap, gap, gap), value=1.0)
    rows, columns, _, height, width = tiles.shape
    page = tiles.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3)
    return (page * 255).round().to(torch.uint8).numpy()
