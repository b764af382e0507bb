"""Inference: a trained network together with the figures that its input is normalized by (lecture L12).

What is exported, and what training itself evaluates with: the same two figures per channel everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST_PIXEL = 255.0


class Classifier(nn.Module):
    """Logits (N, classes), float32, of raw images (N, C, H, W), uint8 or float32 in 0..255.

    `mean` and `std` are those of pixels / 255 over the training split, shape (C,).
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
    """Raw images to network input; `mean` and `std` have shape (1, C, 1, 1)."""
    return images.to(torch.float32).div(LARGEST_PIXEL).sub_(mean).div_(std)


def as_channels(figures: Tensor) -> Tensor:
    """(C,) to (1, C, 1, 1), a float32 copy."""
    return figures.detach().to(torch.float32).clone().reshape(1, -1, 1, 1)
