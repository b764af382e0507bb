"""Inference: a trained network together with the mean and deviation that normalize its input (docs/training.md, L12).

Owns the classifier that is exported, and the normalization of pixels, which training uses too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST_PIXEL = 255.0


class Classifier(nn.Module):
    """Maps raw images (N, C, H, W), uint8 or float32 in 0..255, to logits (N, classes), float32.

    `mean` and `std`, of shape (C,), are those of pixels / 255 in the training split.
    """

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.model = model
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", as_channels(mean))
        self.register_buffer("std", as_channels(std))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(normalize(images, self.mean, self.std))
        return logits.float()


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The network input for raw images; `mean` and `std` have shape (1, C, 1, 1)."""
    return images.to(torch.float32).div(LARGEST_PIXEL).sub_(mean).div_(std)


def as_channels(values: Tensor) -> Tensor:
    """A float32 copy of shape (1, C, 1, 1) from values of shape (C,)."""
    return values.detach().to(torch.float32).clone().reshape(1, -1, 1, 1)
