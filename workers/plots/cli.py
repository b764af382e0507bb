"""Plots of a spec: which plots a spec has, and the process that draws them for `rung explain`.

`python -m workers.plots.cli TOPIC` reads the spec as JSON (or null) from standard input. `workers.plots.content` draws
the plots. It must not know Ray, MLflow or the service.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from search_spaces.augmentation import AugmentationSpec
from search_spaces.domains import Choice, Domain, Interval, bounds_of
from search_spaces.experiment import ExperimentSpec
from search_spaces.optimizers import OptimizerSpec
from search_spaces.sampling import draw_from, extreme_samples, resolve
from search_spaces.schedulers import Scheduler
from search_spaces.spec import members
from search_spaces.stored import read_spec
from workers.data.splits import DataError, Splits, load
from workers.plots import content

MAX_PANELS, MAX_SHEETS = 12, 4  # of one plot: more cannot be read
MAX_STEPS = 5000  # of a schedule, to bound the time to draw it
UNKNOWN_BATCHES = 50  # in an epoch, for a data set whose size is unknown until it is read
#: Reads the data of a spec.
Read = Callable[[ExperimentSpec], Splits]
RATES = tuple(10 ** (power / 3) for power in range(-12, 2))  # to try on Rosenbrock's function


def plot_experiment(spec: ExperimentSpec, splits: Callable[[], Splits], out: Path) -> list[Path]:
    """Every plot of a spec: its schedulers, the paths of its optimizers, and a sheet for each augmentation.

    `splits` is called only if there is an augmentation to draw.
    """
    return [plot_schedulers(spec, out), plot_optimizers(spec, out), *plot_augmentations(spec, splits, out)]


def plot_schedulers(spec: ExperimentSpec, out: Path) -> Path:
    """The schedulers that a spec may bind, over `max_epochs` epochs of as many batches as training has, up to MAX_STEPS
    batches in all.

    The base rate is the spec's learning rate; if the spec searches for it, the plot shows multiples of it. If the spec
    searches for the batch size, the smallest one is drawn.
    """
    space, epochs = spec.search_space, spec.max_epochs
    rates = {optimizer.lr for optimizer in alternatives(space.optimizer)}
    lr = rates.pop() if len(rates) == 1 else 1.0
    batches = min(batches_per_epoch(spec), max(2, MAX_STEPS // epochs))
    return content.schedulers(alternatives(space.scheduler), epochs, batches, out, lr, spec.objective.mode)


def batches_per_epoch(spec: ExperimentSpec) -> int:
    """With the smallest batch size of the spec; UNKNOWN_BATCHES if the size of its data set is unknown."""
    images = spec.dataset.training_images
    if images is None:
        return UNKNOWN_BATCHES
    batch_size = min(bounds_of(spec.search_space.batch_size))
    return math.ceil(images * (1 - spec.dataset.validation_fraction) / batch_size)


def plot_optimizers(spec: ExperimentSpec, out: Path) -> Path:
    """The optimizers that a spec may bind, without weight decay, because that would move the minimum, and at learning
    rates that suit the function: those of the spec suit networks.
    """
    optimizers: dict[str, OptimizerSpec] = {}
    for optimizer in alternatives(spec.search_space.optimizer):
        fields = type(optimizer).model_fields
        defaults = {name: fields[name].default for name in ("lr", "weight_decay", "decay_all")}
        title = content.title(optimizer.model_copy(update=defaults))
        optimizers.setdefault(title, optimizer.model_copy(update={"weight_decay": 0.0}))
    return content.optimizers(out, specs=[(title, _with_best_rate(spec)) for title, spec in optimizers.items()])


def plot_augmentations(spec: ExperimentSpec, splits: Callable[[], Splits], out: Path) -> list[Path]:
    """A sheet for each augmentation of a spec that changes anything, at its strongest."""
    node: Any = spec.search_space.augmentation
    augmentations = [strongest(item) for item in (node.choice if isinstance(node, Choice) else (node,))]
    active = [augmentation for augmentation in augmentations if any(augmentation.model_dump().values())][:MAX_SHEETS]
    if len(active) == 1:
        return [content.augmentation(active[0], splits(), out)]
    return [
        content.augmentation(augmentation, splits(), out / f"augmentation-{number}")
        for number, augmentation in enumerate(active, start=1)
    ]


def alternatives(node: Any, limit: int = MAX_PANELS) -> list[Any]:
    """The values that a field of a spec may get: each alternative of a choice, with its domains at their ends.

    There are at most `limit`, and every alternative has an equal share of them.
    """
    choices = list(node.choice if isinstance(node, Choice) else (node,))[:limit]
    share = limit // len(choices)
    bound_specs: list[Any] = []
    for choice in choices:
        samples = list(islice(extreme_samples(choice), 1000))
        for sample in samples[:: math.ceil(len(samples) / share)]:
            bound = type(choice).model_validate(resolve(choice, draw_from(sample)))
            if bound not in bound_specs:
                bound_specs.append(bound)
    return bound_specs


def strongest(spec: AugmentationSpec) -> AugmentationSpec:
    """The augmentation with each domain at its largest value."""

    def draw(path: str, domain: Domain) -> float:
        if isinstance(domain, Interval):
            return domain.high
        items = domain.choice if isinstance(domain, Choice) else ()
        return max(range(len(items)), key=lambda index: _largest(items[index]))

    return AugmentationSpec.model_validate(resolve(spec, draw))


def main(arguments: list[str]) -> int:
    """Draw plots and print their paths. The exit status is 0, or 2 if they cannot be drawn."""
    parser = argparse.ArgumentParser(prog="python -m workers.plots.cli")
    parser.add_argument("topic", choices=TOPICS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--cache-root", type=Path, required=True)
    options = parser.parse_args(arguments)
    document = json.load(sys.stdin)
    try:
        spec = None if document is None else read_spec(document)
        paths = TOPICS[options.topic](
            spec, lambda of: load(of.dataset, of.seed, options.data_root, options.cache_root), options.out
        )
    except (DataError, ValueError, OSError) as error:
        print(f"rung: {error}", file=sys.stderr)
        return 2
    print("\n".join(map(str, paths)))
    return 0


def _normalization(spec: ExperimentSpec | None, read: Read, out: Path) -> list[Path]:
    specs = alternatives(spec.search_space.normalization) if spec else content.NORMALIZATIONS
    return [content.normalization(out, specs)]


def _optimizers(spec: ExperimentSpec | None, read: Read, out: Path) -> list[Path]:
    return [plot_optimizers(spec, out) if spec else content.optimizers(out)]


def _schedulers(spec: ExperimentSpec | None, read: Read, out: Path) -> list[Path]:
    every: list[Any] = [cls() for cls in members(Scheduler)]
    return [plot_schedulers(spec, out) if spec else content.schedulers(every, 20, UNKNOWN_BATCHES, out)]


def _augmentation(spec: ExperimentSpec | None, read: Read, out: Path) -> list[Path]:
    if spec is None:
        raise ValueError("a SPEC is required to plot augmentation: it names the data set and the transforms")
    paths = plot_augmentations(spec, partial(read, spec), out)
    if not paths:
        raise ValueError(f"{spec.name} has no augmentation: there is nothing to draw")
    return paths


#: Topic of `rung explain` -> what draws its plots, of a spec or without one. Raises ValueError, DataError, OSError.
TOPICS = {
    "schedulers": _schedulers,
    "optimizers": _optimizers,
    "normalization": _normalization,
    "augmentation": _augmentation,
}


def _largest(item: Any) -> float:
    return float(item.high if isinstance(item, Interval) else item)


def _with_best_rate(spec: OptimizerSpec) -> OptimizerSpec:
    """The optimizer with the learning rate whose path is lowest on average and never rises above its start: a path that
    jumps about shows nothing.
    """

    def height(rate: float) -> float:
        path = content.descent(spec.model_copy(update={"lr": rate}), 300)
        heights = [math.log10(float(content.rosenbrock(*point)) + 1e-3) for point in path]
        return sum(heights) / len(heights) if max(heights) <= heights[0] else math.inf

    return spec.model_copy(update={"lr": float(f"{min(RATES, key=height):.2g}")})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
