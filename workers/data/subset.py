"""Subset: some images of a mapped array, gathered when they are read.

A split is a list of indices into the decoded images, so that the images of a data set are on disk once, whatever the
seed of the split, and every trial of a node reads the same pages. It must not know labels, seeds or where the array
comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Subset:
    """`images[indices]` without a copy: takes the place of that tensor wherever one is read.

    Single images, slices, batches and what torch calls the metadata are read from the array. Anything else is computed
    on a copy of all images of the subset, as with a tensor of them.
    """

    def __init__(self, images: Tensor, indices: Tensor) -> None:
        self._images, self._indices = images, indices

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self._images.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return self._images.dtype

    @property
    def nbytes(self) -> int:
        return len(self) * self._images[:1].nbytes

    def __getitem__(self, key: Any) -> Any:
        """Of slices and lists of numbers a subset or a copy is as good: a copy is what training needs next."""
        if isinstance(key, tuple):
            return self.gathered()[key]
        return self._images[self._indices[key]]

    def index_select(self, dimension: int, indices: Tensor) -> Tensor:
        """The images at these positions. `dimension` must be 0."""
        if dimension != 0:
            return self.gathered().index_select(dimension, indices)
        return self._images.index_select(0, self._indices.index_select(0, indices))

    def to(self, *target: Any, **options: Any) -> Any:
        """On the CPU, where the images are, it is this subset."""
        if not options and target == (torch.device("cpu"),):
            return self
        return self.gathered().to(*target, **options)

    def gathered(self) -> Tensor:
        """A copy of all images of the subset."""
        return self._images[self._indices]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.gathered(), name)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        return function(*_gathered(args), **_gathered(kwargs or {}))


def _gathered(value: Any) -> Any:
    """The arguments of a function of torch with copies instead of subsets."""
    if isinstance(value, Subset):
        return value.gathered()
    if isinstance(value, tuple | list):
        return type(value)(map(_gathered, value))
    return {key: _gathered(item) for key, item in value.items()} if isinstance(value, dict) else value
