"""Augmentation: random changes to training images, on the images' device (docs/training.md, L17, L18).

Owns which transforms and mixers a trial uses, and their random numbers: each draws from its own generator, so adding
one changes no trial that does not use it. It must not know the training loop, and nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.augmentation import AugmentationSpec
from workers.training.mixers import MIXERS
from workers.training.transforms import TRANSFORMS, Geometric, Map, Photometric, WholePixel

#: Gives the generator of one epoch for the name of a transform, on the images' device.
Streams = Callable[[str], torch.Generator]


class Augmentation:
    """The transforms and mixers that a trial's spec turns on."""

    def __init__(self, spec: AugmentationSpec, image_size: int, device: torch.device | str) -> None:
        self.transforms = [cls(getattr(spec, cls.field), image_size) for cls in TRANSFORMS if getattr(spec, cls.field)]
        self.mixers = [cls(getattr(spec, cls.field)) for cls in MIXERS if getattr(spec, cls.field)]
        self.size, self.device = image_size, torch.device(device)

    @property
    def changes_images(self) -> bool:
        """Whether any transform is on; mixers do not count."""
        return bool(self.transforms)

    @property
    def mixes_labels(self) -> bool:
        return bool(self.mixers)

    def epoch(self, images: int, streams: Streams) -> EpochAugmentation:
        """Draw the changes to all images of one epoch; `images` is the number of images."""
        parameters = {}
        for transform in self.transforms:
            shape = (transform.draws, images)
            uniform = torch.rand(shape, generator=streams(transform.field), device=self.device)
            parameters[transform.field] = transform.parameters(uniform)
        generators = {mixer.field: streams(mixer.field) for mixer in self.mixers}
        return EpochAugmentation(self, images, parameters, generators)


class EpochAugmentation:
    """The changes of one epoch. `parameters` has a tensor [draws, images] for each transform, in the epoch's order."""

    def __init__(
        self,
        augmentation: Augmentation,
        images: int,
        parameters: dict[str, Tensor],
        generators: dict[str, torch.Generator],
    ) -> None:
        self.parameters = parameters
        self._generators = generators
        self._mixers = augmentation.mixers
        self._size = augmentation.size
        geometric = [transform for transform in augmentation.transforms if isinstance(transform, Geometric)]
        self._whole_pixel = [transform for transform in geometric if isinstance(transform, WholePixel)]
        self._photometric = [transform for transform in augmentation.transforms if isinstance(transform, Photometric)]
        self._maps: Tensor | None = None
        if len(self._whole_pixel) < len(geometric):
            composed = Map()
            for transform in geometric:
                composed = composed.after(transform.map(parameters[transform.field]))
            self._maps = composed.stacked(images, augmentation.device) * (2 / self._size)
            self._axis = torch.arange(self._size, device=augmentation.device) - (self._size - 1) / 2

    def change(self, images: Tensor, start: int = 0) -> Tensor:
        """A changed copy of float images [N, C, H, W] in 0..1, which begin at position `start` of the epoch.

        The copy has the same memory format. If no transform is on, `images` itself is returned.
        """
        if not self.parameters:
            return images
        batch = slice(start, start + len(images))
        if self._maps is not None:
            grid = self._grid(self._maps[:, batch])
            moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        elif self._whole_pixel:
            moved = images
            for transform in self._whole_pixel:
                moved = transform.copy(moved, self.parameters[transform.field][:, batch])
        else:
            moved = images.clone()
        if images.is_contiguous(memory_format=torch.channels_last):
            moved = moved.contiguous(memory_format=torch.channels_last)
        for photometric in self._photometric:
            moved = photometric.apply(moved, self.parameters[photometric.field][:, batch])
        return moved

    def mix(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """A batch and its class probabilities [N, K], mixed by each mixer that is on."""
        for mixer in self._mixers:
            images, targets = mixer.mix(images, targets, self._generators[mixer.field])
        return images, targets

    def _grid(self, maps: Tensor) -> Tensor:
        """Where each pixel of the result is read: [N, H, W, 2] in -1..1."""
        xx, xy, x0, yx, yy, y0 = maps[:, :, None, None]
        grid = torch.empty((maps.shape[1], self._size, self._size, 2), device=maps.device)
        for axis, (from_x, from_y, start) in enumerate(((xx, xy, x0), (yx, yy, y0))):
            torch.add(from_x * self._axis, from_y * self._axis[:, None] + start, out=grid[..., axis])
        return grid
