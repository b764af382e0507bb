"""Epoch order: which training images an epoch trains on, and in which order.

It must not know images, models or augmentation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from workers.training.scores import class_counts

#: The stream of balanced sampling, which is its own so that it changes no trial without it.
PURPOSE = "balanced_sampling"


class EpochOrder:
    """Each image once in a new order; if `balanced`, as many images as there are, drawn with replacement such that all
    classes that have images are equally likely. `labels` are on the CPU."""

    def __init__(self, labels: Tensor, classes: int, device: torch.device, *, balanced: bool) -> None:
        self._count, self._device, self._balanced = len(labels), device, balanced
        if balanced:
            counts = class_counts(labels, classes)
            present = (counts > 0).double()
            self._by_class = labels.argsort(stable=True).to(device)
            self._counts = counts.to(device)
            self._starts = (counts.cumsum(0) - counts).to(device)
            #: Upper ends of the classes in [0, 1], all of one width, those without images of none.
            self._ends = (present.cumsum(0) / present.sum()).to(device)

    def draw(self, shuffling: torch.Generator, stream: Callable[[str], torch.Generator]) -> Tensor:
        """The indices of an epoch, on the device. `shuffling` continues from epoch to epoch, a `stream` is the epoch's
        own."""
        if not self._balanced:
            return torch.randperm(self._count, generator=shuffling, device=self._device)
        generator = stream(PURPOSE)
        which, within = torch.rand(2, self._count, generator=generator, device=self._device, dtype=torch.float64)
        drawn = torch.searchsorted(self._ends, which, right=True)
        places = self._starts[drawn] + (within * self._counts[drawn]).long()
        return self._by_class.index_select(0, places)
