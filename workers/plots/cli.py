"""Plots of a spec: which plots an experiment's spec has, and the process that draws them for `rung explain`.

`python -m workers.plots.cli TOPIC` reads the spec as JSON (or null) from standard input. How a picture is
made is for `workers.plots.content`. It must not know Ray, MLflow or the service.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from search_spaces.augmentation import AugmentationSpec
from search_spaces.domains import Choice, Domain, Interval
from search_spaces.experiment import ExperimentSpec
from search_spaces.optimizers import OptimizerSpec
from search_spaces.sampling import draw_from, extreme_samples, resolve
from search_spaces.schedulers import Scheduler
from search_spaces.spec import members
from workers.data.splits import DataError, Splits, load
from workers.plots import content

PANELS, SHEETS = 12, 4  # at most, of one spec
RATES = tuple(10 ** (power / 3) for power in range(-12, 2))  # tried on Rosenbrock's function


def plot_experiment(spec: ExperimentSpec, splits: Callable[[], Splits], out: Path) -> list[Path]:
    """What depends on the spec: schedulers, paths of optimizers, and a sheet for each augmentation, for which `splits`
    is asked.
    """
    return plot_schedulers(spec, out) + plot_optimizers(spec, out) + plot_augmentations(spec, splits, out)


def plot_schedulers(spec: ExperimentSpec, out: Path) -> list[Path]:
    """The schedulers that a spec may bind, over the epochs of its longest trials, at its learning rate if it has one:
    where it searches for the rate, the plot shows shares of it.
    """
    epochs, found = spec.max_epochs, alternatives(spec.search_space.scheduler)
    rates = {optimizer.lr for optimizer in alternatives(spec.search_space.optimizer)}
    lr = rates.pop() if len(rates) == 1 else 1.0
    return content.schedulers(found, epochs, max(2, min(50, 20_000 // epochs)), out, lr)


def plot_optimizers(spec: ExperimentSpec, out: Path) -> list[Path]:
    """The optimizers that a spec may bind, without weight decay, which moves the minimum, and at rates that suit
    the function: a spec's own suit networks.
    """
    found: dict[str, OptimizerSpec] = {}
    for one in alternatives(spec.search_space.optimizer):
        fields = type(one).model_fields
        plain = {name: fields[name].default for name in ("lr", "weight_decay", "decay_all")}
        found.setdefault(content.title(one.model_copy(update=plain)), one.model_copy(update={"weight_decay": 0.0}))
    return content.optimizers(out, specs=[(name, _suited(one)) for name, one in found.items()])


def plot_augmentations(spec: ExperimentSpec, splits: Callable[[], Splits], out: Path) -> list[Path]:
    """A sheet for each augmentation of a spec that changes anything, at its strongest."""
    node: Any = spec.search_space.augmentation
    found = [strongest(item) for item in (node.choice if isinstance(node, Choice) else (node,))]
    active = [one for one in found if any(one.model_dump().values())][:SHEETS]
    if len(active) == 1:
        return content.augmentation(active[0], splits(), out)
    sheets = [
        content.augmentation(one, splits(), out / f"augmentation-{number}")
        for number, one in enumerate(active, start=1)
    ]
    return [path for sheet in sheets for path in sheet]


def alternatives(node: Any, most: int = PANELS) -> list[Any]:
    """Specs that a field may become, domains at their ends, an equal share for each alternative of a choice."""
    arms = list(node.choice if isinstance(node, Choice) else (node,))[:most]
    share = most // len(arms)
    found: list[Any] = []
    for arm in arms:
        samples = list(islice(extreme_samples(arm), 1000))
        for sample in samples[:: math.ceil(len(samples) / share)]:
            bound = type(arm).model_validate(resolve(arm, draw_from(sample)))
            if bound not in found:
                found.append(bound)
    return found


def strongest(spec: AugmentationSpec) -> AugmentationSpec:
    """Every domain at its largest value."""

    def draw(path: str, domain: Domain) -> float:
        if isinstance(domain, Interval):
            return domain.high
        items = domain.choice if isinstance(domain, Choice) else ()
        return max(range(len(items)), key=lambda index: _largest(items[index]))

    return AugmentationSpec.model_validate(resolve(spec, draw))


def main(arguments: list[str]) -> int:
    """Exit status 0: drawn, the paths are printed. 2: it cannot be drawn."""
    parser = argparse.ArgumentParser(prog="python -m workers.plots.cli")
    parser.add_argument("topic", choices=("schedulers", "optimizers", "normalization", "augmentation"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--cache-root", type=Path, required=True)
    options = parser.parse_args(arguments)
    given = json.load(sys.stdin)
    try:
        drawn = _drawn(options, None if given is None else ExperimentSpec.model_validate(given))
    except (DataError, ValueError, OSError) as error:
        print(f"rung: {error}", file=sys.stderr)
        return 2
    print("\n".join(map(str, drawn)))
    return 0


def _drawn(options: argparse.Namespace, spec: ExperimentSpec | None) -> list[Path]:
    out: Path = options.out
    if options.topic == "normalization":
        return (
            content.normalization(out, alternatives(spec.search_space.normalization))
            if spec
            else content.normalization(out)
        )
    if options.topic == "optimizers":
        return plot_optimizers(spec, out) if spec else content.optimizers(out)
    if options.topic == "schedulers":
        every: list[Any] = [cls() for cls in members(Scheduler)]
        return plot_schedulers(spec, out) if spec else content.schedulers(every, 20, 50, out)
    if spec is None:
        raise ValueError("a SPEC required: it names the data set and what is changed")
    wanted = spec

    def splits() -> Splits:
        return load(wanted.dataset, wanted.seed, options.data_root, options.cache_root)

    drawn = plot_augmentations(spec, splits, out)
    if not drawn:
        raise ValueError(f"augmentation is off in {spec.name}: there is nothing to draw")
    return drawn


def _largest(item: Any) -> float:
    return float(item.high if isinstance(item, Interval) else item)


def _suited(spec: OptimizerSpec) -> OptimizerSpec:
    """With the rate whose path is the lowest as a whole, and never above its start: one that jumps is no picture."""

    def height(rate: float) -> float:
        path = content.descent(spec.model_copy(update={"lr": rate}), 300)
        reached = [math.log10(float(content.rosenbrock(*point)) + 1e-3) for point in path]
        return sum(reached) / len(reached) if max(reached) <= reached[0] else math.inf

    return spec.model_copy(update={"lr": float(f"{min(RATES, key=height):.2g}")})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
