"""Adapted: torchvision's classification models, changed to accept small or gray images and any number of classes.

They were designed for 224x224 color images. For images of up to SMALL_SIDE pixels the stem reduces less: stride 1,
a 3x3 kernel in place of 7x7, and no pooling after it. Images that are still too small for a model are scaled up first.
Models keep their own normalization and initialization; a replaced stem gets Kaiming's initialization.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from search_spaces.models import TorchvisionModel
from search_spaces.normalization import Batch
from workers.models.normalization import Normalizer

SMALL_SIDE = 64


@dataclass(frozen=True)
class Family:
    """How one family of models is adapted.

    `smallest` is the smallest side of an image that the family accepts. `gentle` is whether the stem may reduce less
    for small images, and `pooling` the module after the stem that is then removed. `patch` is the side of a patch for
    models whose input must be a multiple of it. `options` are further keyword arguments of torchvision's builder.
    """

    smallest: int = 8
    gentle: bool = False
    pooling: str | None = None
    patch: int | None = None
    options: tuple[tuple[str, Any], ...] = ()


_NO_AUXILIARY = (("aux_logits", False), ("init_weights", True))

#: A model belongs to the family with the longest key that its name starts with.
FAMILIES = {
    "alexnet": Family(smallest=64),
    "convnext": Family(smallest=32),
    "densenet": Family(gentle=True, pooling="features.pool0"),
    "efficientnet": Family(gentle=True),
    "googlenet": Family(gentle=True, pooling="maxpool1", options=_NO_AUXILIARY),
    "inception": Family(smallest=75, options=_NO_AUXILIARY),
    "maxvit": Family(smallest=224, options=(("input_size", (224, 224)),)),
    "mnasnet": Family(gentle=True),
    "mobilenet": Family(gentle=True),
    "regnet": Family(gentle=True),
    "resnet": Family(gentle=True, pooling="maxpool"),
    "resnext": Family(gentle=True, pooling="maxpool"),
    "shufflenet": Family(gentle=True, pooling="maxpool"),
    "squeezenet": Family(smallest=32),
    "swin": Family(smallest=32),
    "vgg": Family(smallest=32),
    "vit_b_16": Family(patch=16),
    "vit_b_32": Family(patch=32),
    "vit_h_14": Family(patch=14),
    "vit_l_16": Family(patch=16),
    "vit_l_32": Family(patch=32),
    "wide_resnet": Family(gentle=True, pooling="maxpool"),
}
PATCHES_PER_SIDE = 4


class Enlarged(nn.Module):
    """A model whose input is scaled up to `side` first."""

    def __init__(self, model: nn.Module, side: int) -> None:
        super().__init__()
        self.model = model
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        larger = F.interpolate(images, size=(self.side, self.side), mode="bilinear", align_corners=False)
        logits: Tensor = self.model(larger)
        return logits


def build(spec: TorchvisionModel, normalizer: Normalizer, channels: int, classes: int, image_size: int) -> nn.Module:
    """The model `spec.name` with a new head. Raises ValueError for any normalization except batch."""
    if not isinstance(normalizer.spec, Batch):
        raise ValueError(
            f"torchvision's {spec.name} keeps its own normalization: `normalization` must be batch "
            f"(got {normalizer.spec!r})"
        )
    family, side = family_of(spec.name), image_size
    options = dict(family.options)
    if family.patch is not None:
        side = family.patch * max(PATCHES_PER_SIDE, math.ceil(image_size / family.patch))
        options["image_size"] = side
    side = max(side, family.smallest)
    model: nn.Module = models.get_model(spec.name, weights=None, num_classes=classes, **options)
    _adapt_stem(model, channels, gentle=family.gentle and image_size <= SMALL_SIDE)
    if family.pooling is not None and image_size <= SMALL_SIDE:
        model.set_submodule(family.pooling, nn.Identity())
    return Enlarged(model, side) if side != image_size else model


def family_of(name: str) -> Family:
    """The family of a torchvision model. Raises ValueError if no family matches."""
    known = [prefix for prefix in FAMILIES if name.startswith(prefix)]
    if not known:
        raise ValueError(f"a torchvision model must be of one of the families {', '.join(FAMILIES)} (got {name})")
    return FAMILIES[max(known, key=len)]


def _adapt_stem(model: nn.Module, channels: int, gentle: bool) -> None:
    name, stem = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    kernel, stride, padding = _side(stem.kernel_size), _side(stem.stride), _side(stem.padding)
    if gentle:
        kernel = 3 if kernel == 7 else kernel
        stride, padding = 1, kernel // 2
    if (channels, kernel, stride) == (stem.in_channels, _side(stem.kernel_size), _side(stem.stride)):
        return
    replacement = nn.Conv2d(channels, stem.out_channels, kernel, stride, padding, bias=stem.bias is not None)
    with torch.no_grad():
        nn.init.kaiming_normal_(replacement.weight, mode="fan_in", nonlinearity="relu")
        if replacement.bias is not None:
            replacement.bias.zero_()
    model.set_submodule(name, replacement)


def _side(value: str | tuple[int, ...]) -> int:
    """The side of a square kernel, stride or padding."""
    if isinstance(value, str) or len(set(value)) != 1:
        raise ValueError(f"kernel, stride and padding of a stem must be square (got {value})")
    return value[0]
