"""Transforms: random changes to one image at a time, on the images' device (docs/training.md, L17).

Owns each transform, its parameters and their order. To add one, write a class here, list it in TRANSFORMS, and add the
field that it names to `AugmentationSpec`. It must not know the training loop, and nothing here waits for the device.
Definitions are those of `torchvision.transforms.v2.functional`, which applies one set of parameters to a whole batch;
here every image gets its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Map:
    """An affine map: a pixel (x', y') of the result is read at x = xx*x' + xy*y' + x0, y = yx*x' + yy*y' + y0.

    Coordinates are in pixels from the center. Each coefficient is a number for all images or a tensor [N]. There are no
    matrix products, because autocast would round them to half precision.
    """

    xx: Tensor | float = 1.0
    xy: Tensor | float = 0.0
    x0: Tensor | float = 0.0
    yx: Tensor | float = 0.0
    yy: Tensor | float = 1.0
    y0: Tensor | float = 0.0

    def after(self, first: Map) -> Map:
        """The map that applies `first` and then this one."""
        return Map(
            xx=self.xx * first.xx + self.xy * first.yx,
            xy=self.xx * first.xy + self.xy * first.yy,
            x0=self.xx * first.x0 + self.xy * first.y0 + self.x0,
            yx=self.yx * first.xx + self.yy * first.yx,
            yy=self.yx * first.xy + self.yy * first.yy,
            y0=self.yx * first.x0 + self.yy * first.y0 + self.y0,
        )

    def stacked(self, n: int, device: torch.device) -> Tensor:
        """The six coefficients as one tensor [6, n]."""
        rows = (self.xx, self.xy, self.x0, self.yx, self.yy, self.y0)
        return torch.stack([row if isinstance(row, Tensor) else torch.full((n,), row, device=device) for row in rows])


class Transform(ABC):
    """A change to one image at a time that keeps its label.

    `field` is the field of `AugmentationSpec` that holds the strength. `draws` is the number of random numbers that an
    image needs. The parameters for no change are `neutral`.
    """

    field: ClassVar[str]
    draws: ClassVar[int] = 1
    neutral: ClassVar[float] = 0.0

    def __init__(self, strength: float, image_size: int) -> None:
        self.strength = strength
        self.size = image_size

    def parameters(self, uniform: Tensor) -> Tensor:
        """The parameters [draws, N] for uniform random numbers [draws, N] in [0, 1): within `strength` of `neutral`."""
        return uniform.mul(2).sub_(1).mul_(self.strength).add_(self.neutral)


class Geometric(Transform):
    """A transform that moves pixels. All geometric transforms of a trial are composed, and interpolate once."""

    @abstractmethod
    def map(self, parameters: Tensor) -> Map:
        """Where the pixels of the result are read."""


class WholePixel(Geometric):
    """A geometric transform that moves whole pixels. If a trial has no others, nothing is interpolated."""

    @abstractmethod
    def copy(self, images: Tensor, parameters: Tensor) -> Tensor:
        """The moved images as a new tensor."""


class Photometric(Transform):
    """A transform that changes the values of pixels in place."""

    @abstractmethod
    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        """The changed images in 0..1; overwrites `images`."""


class Crop(WholePixel):
    """A window at a random place of the zero-padded image. Parameters: its top and left in the padded image."""

    field = "crop_padding"
    draws = 2

    def parameters(self, uniform: Tensor) -> Tensor:
        largest = 2 * int(self.strength)
        return uniform.mul(largest + 1).long().clamp_(max=largest)

    def map(self, parameters: Tensor) -> Map:
        top, left = parameters - int(self.strength)
        return Map(x0=left.float(), y0=top.float())

    def copy(self, images: Tensor, parameters: Tensor) -> Tensor:
        padded = functional.pad(images, (int(self.strength),) * 4)
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
        top, left = parameters
        return windows[torch.arange(len(images), device=images.device), :, top, left]


class Flip(WholePixel):
    """Mirroring with a probability. Parameter: whether the image is mirrored."""

    field = "horizontal_flip"

    def parameters(self, uniform: Tensor) -> Tensor:
        return uniform < self.strength

    def map(self, parameters: Tensor) -> Map:
        return Map(xx=1 - 2 * parameters[0].float())

    def copy(self, images: Tensor, parameters: Tensor) -> Tensor:
        return torch.where(_per_image(parameters[0]), images.flip(3), images)


class Shear(Geometric):
    """Shear along x. Parameter: degrees."""

    field = "shear"

    def map(self, parameters: Tensor) -> Map:
        return Map(xy=torch.tan(parameters[0] * (math.pi / 180)))


class Scaling(Geometric):
    """Zoom about the center. Parameter: the factor."""

    field = "scaling"
    neutral = 1.0

    def map(self, parameters: Tensor) -> Map:
        return Map(xx=1 / parameters[0], yy=1 / parameters[0])


class Rotation(Geometric):
    """Rotation about the center. Parameter: degrees, clockwise as in torchvision's `affine`."""

    field = "rotation"

    def map(self, parameters: Tensor) -> Map:
        angle = parameters[0] * (math.pi / 180)
        cos, sin = torch.cos(angle), torch.sin(angle)
        return Map(xx=cos, xy=sin, yx=-sin, yy=cos)


class Translation(Geometric):
    """A shift by a share of the image's side. Parameters: pixels to the right and down."""

    field = "translation"
    draws = 2

    def parameters(self, uniform: Tensor) -> Tensor:
        return super().parameters(uniform).mul_(self.size)

    def map(self, parameters: Tensor) -> Map:
        return Map(x0=-parameters[0], y0=-parameters[1])


class Brightness(Photometric):
    field = "brightness"
    neutral = 1.0

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        return images.mul_(_per_image(parameters[0])).clamp_(0, 1)


class Contrast(Photometric):
    """Blend with the image's mean gray level."""

    field = "contrast"
    neutral = 1.0

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        factor, grey = _per_image(parameters[0]), _grey(images).mean(dim=(1, 2, 3), keepdim=True)
        return images.mul_(factor).add_(grey * (1 - factor)).clamp_(0, 1)


class Sharpness(Photometric):
    """Blend with a 3x3 blur whose center has the weight 5/13. The outermost pixels keep their values."""

    field = "sharpness"
    neutral = 1.0

    def apply(self, images: Tensor, parameters: Tensor) -> Tensor:
        if min(images.shape[2:]) <= 2:
            return images
        columns = images[..., :-2] + images[..., 1:-1] + images[..., 2:]
        inner = images[:, :, 1:-1, 1:-1]
        blurred = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:]
        blurred = blurred.add_(inner, alpha=4).div_(13)
        inner.add_(blurred.sub_(inner).mul_(_per_image(1 - parameters[0])))
        return images.clamp_(0, 1)


#: In the order in which they are applied. The affine transforms have the order of torchvision's `affine`.
TRANSFORMS: tuple[type[Transform], ...] = (
    Crop,
    Flip,
    Shear,
    Scaling,
    Rotation,
    Translation,
    Brightness,
    Contrast,
    Sharpness,
)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _grey(images: Tensor) -> Tensor:
    """Luma of RGB images with torchvision's weights (ITU-R BT.601, to four digits); gray images are returned."""
    if images.shape[1] != 3:
        return images
    red, green, blue = images.unbind(dim=1)
    return (red * 0.2989 + green * 0.587 + blue * 0.114)[:, None]
