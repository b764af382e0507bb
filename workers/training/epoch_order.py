"""Epoch order: which training images an epoch trains on, and in which order.

It must not know images, models or augmentation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: The stream of balanced sampling, which is its own so that it changes no trial without it.
PURPOSE = "balanced_sampling"


class EpochOrder:
    """Each image once in a new order; if `balanced`, as many images as there are, drawn with replacement such that all
    classes that have images are equally likely. `labels` are on the CPU."""

    def __init__(self, labels: Tensor, classes: int, device: torch.device, *, balanced: bool) -> None:
        self._count, self._device = len(labels), device
        self._by_class = labels.argsort(stable=True).to(device) if balanced else None
        counts = torch.bincount(labels, minlength=classes)
        self._starts = (counts.cumsum(0) - counts)[counts > 0].to(device)
        self._counts = counts[counts > 0].to(device)

    def draw(self, shuffling: torch.Generator, stream: Callable[[str], torch.Generator]) -> Tensor:
        """The indices of an epoch, on the device. `shuffling` continues from epoch to epoch, a `stream` is the epoch's
        own."""
        if self._by_class is None:
            return torch.randperm(self._count, generator=shuffling, device=self._device)
        generator = stream(PURPOSE)
        drawn = torch.randint(len(self._counts), (self._count,), generator=generator, device=self._device)
        within = torch.rand(self._count, generator=generator, device=self._device, dtype=torch.float64)
        places = self._starts[drawn] + (within * self._counts[drawn]).long()
        return self._by_class.index_select(0, places)
