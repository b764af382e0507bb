"""Largest: the configuration of a search space that needs most memory, as far as its shapes tell.

A space has too many configurations to build each. From the one with every interval at its high end, one domain after
another is set to each of its alternatives, or to its other end, and the best stays; a second round sees what the first
one changed. So the number of networks that are built is bounded. An optimizer with more state, or an augmentation, is
not told apart: what it needs is measured with the configuration, and may be more in another one. It must not know
training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.domains import Choice, Domain, Interval
from search_spaces.experiment import ExperimentSpec, TrialSpec
from search_spaces.sampling import resolve
from workers.models.build import build_model

ROUNDS = 2
#: Most networks that are built, and alternatives of a choice that are tried, at even distances.
MOST_BUILT, MOST_ALTERNATIVES = 200, 16
BYTES = 4  # of a float32
COPIES = 4  # of each weight: itself, its gradient, and two moments of the optimizer


class LargestSearch:
    """`images`: the shape (N, channels, height, width) of those that the networks see."""

    def __init__(self, spec: ExperimentSpec, images: tuple[int, int, int, int], classes: int) -> None:
        self._spec, self._images, self._classes = spec, images, classes
        self._known: dict[str, int] = {}
        self._problems: list[Exception] = []

    def find(self) -> TrialSpec:
        """Configurations that cannot be built are left out. Raises what the builder of a network raises if none can."""
        best, size = self._search()
        if not size:
            raise self._problems[0]
        return best

    def _search(self) -> tuple[TrialSpec, int]:
        chosen: dict[str, float] = {}
        best, size = self._try(chosen)
        for _ in range(ROUNDS):
            for path, domain in list(self._active(chosen).items()):
                for value in _alternatives(domain):
                    if len(self._known) >= MOST_BUILT:
                        return best, size
                    other = chosen | {path: value}
                    found, found_size = self._try(other)
                    if found_size > size:
                        chosen, best, size = other, found, found_size
        return best, size

    def _active(self, chosen: Mapping[str, float]) -> dict[str, Domain]:
        met: dict[str, Domain] = {}

        def draw(path: str, domain: Domain) -> float:
            met[path] = domain
            return _value(chosen, path, domain)

        resolve(self._spec.search_space, draw)
        return met

    def _try(self, chosen: Mapping[str, float]) -> tuple[TrialSpec, int]:
        sample = {path: _value(chosen, path, domain) for path, domain in self._active(chosen).items()}
        bound = self._spec.bind(sample)
        space = bound.hyperparameters
        key = f"{space.model!r} {space.normalization!r} {space.batch_size}"
        if key not in self._known:
            self._known[key] = self._size(bound)
        return bound, self._known[key]

    def _size(self, bound: TrialSpec) -> int:
        try:
            return estimated_bytes(bound, self._images, self._classes)
        except Exception as error:  # such as of numbers that do not go together, or of a plugin: its trials will fail
            self._problems.append(error)
            return 0


def estimated_bytes(spec: TrialSpec, images: tuple[int, int, int, int], classes: int) -> int:
    """Memory of the weights and of what each layer puts out for a batch, without computing anything: good enough to
    compare configurations, and no more."""
    space, (_, channels, _, side) = spec.hyperparameters, images
    try:
        with torch.device("meta"):
            model = build_model(space.model, space.normalization, channels, classes, side)
            outputs = _outputs(model, torch.empty((2, channels, side, side)))
    except (RuntimeError, NotImplementedError):  # a plugin, or a layer, that computes while it is built
        model = build_model(space.model, space.normalization, channels, classes, side)
        outputs = _outputs(model, torch.zeros((2, channels, side, side)))
    weights = sum(weight.numel() for weight in model.parameters())
    return BYTES * (COPIES * weights + outputs * space.batch_size // 2)


def _outputs(model: nn.Module, images: Tensor) -> int:
    """Number of values that all layers together put out."""
    count = 0

    def add(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal count
        count += output.numel() if isinstance(output, Tensor) else 0

    hooks = [layer.register_forward_hook(add) for layer in model.modules() if not any(layer.children())]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return count


def _value(chosen: Mapping[str, float], path: str, domain: Domain) -> float:
    return chosen.get(path, domain.high if isinstance(domain, Interval) else 0)


def _alternatives(domain: Domain) -> Iterable[float]:
    if isinstance(domain, Interval):
        return (domain.low, domain.high)
    assert isinstance(domain, Choice)
    count = len(domain.choice)
    step = max(1, -(-count // MOST_ALTERNATIVES))
    return sorted({*range(0, count, step), count - 1})
