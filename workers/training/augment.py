"""Augmentation: random changes to a batch of training images, on the images' device (lecture L17, L18).

Parameters are drawn for each image anew from the caller's generator; images are moved once however many
geometric changes are asked for. Nothing here waits for the device. It must not know the training loop.
Definitions are those of `torchvision.transforms.v2.functional`, which knows one set of parameters a call.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.augmentation import AugmentationSpec

DRAWS = 11  # uniform numbers for an image, drawn whether used or not: one strength changes no other's draws


@dataclass(frozen=True)
class Parameters:
    """What is done to each image of a batch, in the order of the fields; every tensor has shape [N].

    None means that the step is off for the whole batch. Crop offsets count from the corner of the padded
    image. Angles are degrees, counted as torchvision's `affine` counts them, translations are pixels;
    rotation, translation, scale and shear are either all given or all None.
    """

    crop_top: Tensor | None = None
    crop_left: Tensor | None = None
    mirrored: Tensor | None = None
    rotation: Tensor | None = None
    translate_x: Tensor | None = None
    translate_y: Tensor | None = None
    scale: Tensor | None = None
    shear: Tensor | None = None
    brightness: Tensor | None = None
    contrast: Tensor | None = None
    sharpness: Tensor | None = None


class Augmentation:
    """Crop, mirroring, affine map, brightness, contrast, sharpness: `draw` and then `apply`."""

    def __init__(self, spec: AugmentationSpec, image_size: int, device: torch.device | str) -> None:
        self.spec = spec
        self.size = image_size
        self.device = torch.device(device)
        self._moves = any((spec.rotation, spec.translation, spec.scaling, spec.shear))
        centred = torch.arange(image_size, device=self.device, dtype=torch.float32) - (image_size - 1) / 2
        self._x, self._y = centred.view(1, 1, -1), centred.view(1, -1, 1)

    @property
    def active(self) -> bool:
        """Whether any image is changed; mixup is not counted, see `mixup`."""
        spec = self.spec
        return self._moves or any(
            (spec.crop_padding, spec.horizontal_flip, spec.brightness, spec.contrast, spec.sharpness)
        )

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A changed copy of float images [N, C, H, W] in 0..1; the images themselves when nothing is asked for."""
        return self.apply(images, self.draw(len(images), generator)) if self.active else images

    def draw(self, n: int, generator: torch.Generator) -> Parameters:
        """Parameters for `n` images, from a generator on this device."""
        spec = self.spec
        uniform = torch.rand((DRAWS, n), generator=generator, device=self.device)

        def around(row: int, middle: float, reach: float) -> Tensor:
            return uniform[row].mul(2).sub_(1).mul_(reach).add_(middle)

        def offset(row: int) -> Tensor | None:
            most = 2 * spec.crop_padding
            return uniform[row].mul(most + 1).long().clamp_(max=most) if most else None

        moves = self._moves
        return Parameters(
            crop_top=offset(0),
            crop_left=offset(1),
            mirrored=uniform[2] < spec.horizontal_flip if spec.horizontal_flip else None,
            rotation=around(3, 0, spec.rotation) if moves else None,
            translate_x=around(4, 0, spec.translation * self.size) if moves else None,
            translate_y=around(5, 0, spec.translation * self.size) if moves else None,
            scale=around(6, 1, spec.scaling) if moves else None,
            shear=around(7, 0, spec.shear) if moves else None,
            brightness=around(8, 1, spec.brightness) if spec.brightness else None,
            contrast=around(9, 1, spec.contrast) if spec.contrast else None,
            sharpness=around(10, 1, spec.sharpness) if spec.sharpness else None,
        )

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """The images changed as the parameters say; a new tensor in the memory format of the old one."""
        if parameters.rotation is not None:
            grid = self._grid(parameters)
            moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        else:
            moved = self._crop(images, parameters)
        if images.is_contiguous(memory_format=torch.channels_last):
            moved = moved.contiguous(memory_format=torch.channels_last)
        if parameters.brightness is not None:
            moved = moved.mul_(_per_image(parameters.brightness)).clamp_(0, 1)
        if parameters.contrast is not None:
            moved = _blend(moved, _grey(moved).mean(dim=(1, 2, 3), keepdim=True), parameters.contrast)
        if parameters.sharpness is not None:
            moved = _sharpen(moved, parameters.sharpness)
        return moved

    def _crop(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Padding, crop and mirroring by copying whole pixels: nothing is interpolated."""
        if parameters.crop_top is not None and parameters.crop_left is not None:
            padded = functional.pad(images, (self.spec.crop_padding,) * 4)
            windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
            moved = windows[
                torch.arange(len(images), device=images.device), :, parameters.crop_top, parameters.crop_left
            ]
        else:
            moved = images.clone()
        if parameters.mirrored is not None:
            moved = torch.where(_per_image(parameters.mirrored), moved.flip(3), moved)
        return moved

    def _grid(self, parameters: Parameters) -> Tensor:
        """Where each pixel of the result is read, [N, H, W, 2] in -1..1: affine, mirroring and crop in one map.

        Written without matrix products, which autocast would round to half precision.
        """
        rotation, scale, shear = parameters.rotation, parameters.scale, parameters.shear
        right, down = parameters.translate_x, parameters.translate_y
        if rotation is None or scale is None or shear is None or right is None or down is None:
            raise ValueError(f"rotation, translation, scale and shear required together, got {parameters}")
        angle, skew = rotation * (math.pi / 180), torch.tan(shear * (math.pi / 180))
        cos, sin = torch.cos(angle), torch.sin(angle)
        # The inverse of rotation * shear * scale, from the result's pixels in units of half the image's side.
        unit = 2 / (scale * self.size)
        ux, uy, vx, vy = (cos - sin * skew) * unit, (cos * skew + sin) * unit, -sin * unit, cos * unit
        if parameters.mirrored is not None:
            sign = 1 - 2 * parameters.mirrored.to(unit.dtype)
            ux, uy = ux * sign, uy * sign
        u, v = -ux * right - uy * down, -vx * right - vy * down
        if parameters.crop_top is not None and parameters.crop_left is not None:
            u = u + (parameters.crop_left - self.spec.crop_padding) * (2 / self.size)
            v = v + (parameters.crop_top - self.spec.crop_padding) * (2 / self.size)
        grid = torch.empty((len(rotation), self.size, self.size, 2), device=rotation.device)
        for axis, (from_x, from_y, start) in enumerate(((ux, uy, u), (vx, vy, v))):
            row = from_x[:, None, None] * self._x
            column = from_y[:, None, None] * self._y + start[:, None, None]
            torch.add(row, column, out=grid[..., axis])
        return grid


def mixup(images: Tensor, targets: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each image and its target mixed with those of a random partner from the batch (Zhang et al., 2018).

    `targets` are class probabilities [N, K]. lambda ~ Beta(alpha, alpha) is drawn for each pair, where the
    paper's code draws one for the batch: the expectation is the same, the gradient's variance smaller.
    `alpha` of 0 mixes nothing.
    """
    if alpha <= 0:
        return images, targets
    share = beta(len(images), alpha, generator).to(images.dtype)
    partner = torch.randperm(len(images), generator=generator, device=images.device)
    mixed = torch.lerp(images[partner], images, _per_image(share))
    return mixed, torch.lerp(targets[partner], targets, share[:, None].to(targets.dtype))


def beta(n: int, alpha: float, generator: torch.Generator) -> Tensor:
    """`n` draws of Beta(alpha, alpha), float64, on the generator's device.

    X / (X + Y) of two gamma variables, in logarithms: Gamma(alpha) is Gamma(alpha + 1) times U^(1/alpha)
    (Marsaglia and Tsang, 2000), and for a small alpha both underflow, which would leave 0/0.
    """
    shape = torch.full((2, n), alpha + 1, dtype=torch.float64, device=generator.device)
    gamma = torch._standard_gamma(shape, generator=generator)
    uniform = 1 - torch.rand((2, n), dtype=torch.float64, generator=generator, device=generator.device)
    logarithm = gamma.log() + uniform.log() / alpha
    return torch.sigmoid(logarithm[0] - logarithm[1])


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """images * factor + other * (1 - factor), clamped to 0..1; overwrites the images."""
    factor = _per_image(factor)
    return images.mul_(factor).add_(other * (1 - factor)).clamp_(0, 1)


def _grey(images: Tensor) -> Tensor:
    """Luma of RGB images, as torchvision weighs it (ITU-R BT.601, its four digits); grey images as they are."""
    if images.shape[1] != 3:
        return images
    red, green, blue = images.unbind(dim=1)
    return (red * 0.2989 + green * 0.587 + blue * 0.114)[:, None]


def _sharpen(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with a blur of 3x3 whose middle weighs 5 of 13; the outermost pixels stay. Overwrites the images."""
    if min(images.shape[2:]) <= 2:
        return images
    columns = images[..., :-2] + images[..., 1:-1] + images[..., 2:]
    inner = images[:, :, 1:-1, 1:-1]
    blurred = columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:]
    blurred = blurred.add_(inner, alpha=4).div_(13)
    inner.add_(blurred.sub_(inner).mul_(_per_image(1 - factor)))
    return images.clamp_(0, 1)
