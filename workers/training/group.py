"""Group: the processes that train one trial together, each a part of every batch, in torch only (docs/training.md).

Owns how a batch is divided among them, and how they put together what each has found. Each process has the whole
training: the same weights, images and random numbers. So the trial is the one that a single process would train, and
what it saves is the same. It must not know the training loop, nor how processes are started. Nothing waits for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Part:
    """What a process does of `count` images in a row: those from `start` to `stop`. `times`: how many processes do the
    same."""

    start: int
    stop: int
    count: int
    times: int = 1

    @property
    def images(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def share(self) -> float:
        """Of the mean over all images, what this process adds to it; the shares of all processes sum to one."""
        return (self.stop - self.start) / (self.count * self.times)


class Group:
    """`size` processes, of which this is number `rank`, from 0. With more than one, torch's process group must exist.

    `part` is this process's of the current batch, for layers that need the others of it.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.part = Part(0, 1, 1)

    @property
    def is_alone(self) -> bool:
        return self.size == 1

    def divide(self, count: int) -> Part:
        """This process's part of `count` images. Of fewer images than processes, each does all of them."""
        if count < self.size:
            return Part(0, count, count, self.size)
        return Part(self.rank * count // self.size, (self.rank + 1) * count // self.size, count)

    def network(self, model: nn.Module, *, may_skip: bool) -> Callable[[Tensor], Any]:
        """The model, whose gradients are means over the processes. `may_skip`: a batch may leave out some weights.

        What else a model has counted, it has from the first process at the begin of each batch.
        """
        if self.is_alone:
            return model
        device = next(model.parameters()).device
        return nn.parallel.DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=may_skip,
            gradient_as_bucket_view=True,
        )

    def weighted(self, loss: Tensor) -> Tensor:
        """The mean loss of this process's part such that the mean over the processes has the batch's gradient."""
        weight = self.part.share * self.size
        return loss if weight == 1 else loss * weight

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, in place, and the same bits in each."""
        if not self.is_alone:
            distributed.all_reduce(values)
        return values

    def means(self, own: Tensor, parts: Sequence[Part]) -> Tensor:
        """The means over batches [batches] from those over this process's parts."""
        if self.is_alone:
            return own
        return self.sum(own * torch.tensor([part.share for part in parts], dtype=own.dtype).to(own.device))

    def total(self, own: Tensor, part: Part) -> Tensor:
        """The sum over all images from that over this process's part."""
        return self.sum(own.clone() if self._counts(part) else torch.zeros_like(own))

    def joined(self, own: Sequence[Tensor], parts: Sequence[Part]) -> Tensor:
        """The values of all images [images], from those of this process's parts."""
        if self.is_alone:
            return torch.cat(list(own))
        # As torch has no sum of truth values, they are numbers meanwhile.
        dtype = torch.uint8 if own[0].dtype == torch.bool else own[0].dtype
        found = torch.zeros(sum(part.count for part in parts), dtype=dtype, device=own[0].device)
        before = 0
        for values, part in zip(own, parts, strict=True):
            if self._counts(part):
                found[before + part.start : before + part.stop] = values
            before += part.count
        return self.sum(found).to(own[0].dtype)

    def _counts(self, part: Part) -> bool:
        """Whether what this process has found is to be counted."""
        return part.times == 1 or self.rank == 0
