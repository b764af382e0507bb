"""Mixers: random changes that mix the images of a batch and their labels (docs/training.md, L18).

To add one, write a class here, list it in MIXERS, and add the field that it names to `AugmentationSpec`. It must not
know the training loop, and nothing here waits for the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Mixer(ABC):
    """A change that mixes the images of a batch and their labels. `field` is as in `Transform`."""

    field: ClassVar[str]

    def __init__(self, strength: float) -> None:
        self.strength = strength

    @abstractmethod
    def mix(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """New images and class probabilities [N, K] from a batch of them."""


class Mixup(Mixer):
    """Each image and its target mixed with a random partner from the batch (Zhang et al., 2018).

    lambda ~ Beta(alpha, alpha) is drawn for each pair; the paper's code draws one for the batch. The expectation is the
    same, and the gradient's variance is smaller.
    """

    field = "mixup_alpha"

    def mix(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        share = beta(len(images), self.strength, generator).to(images.dtype)
        partner = torch.randperm(len(images), generator=generator, device=images.device)
        mixed = torch.lerp(images[partner], images, share[:, None, None, None])
        return mixed, torch.lerp(targets[partner], targets, share[:, None].to(targets.dtype))


MIXERS: tuple[type[Mixer], ...] = (Mixup,)


def beta(n: int, alpha: float, generator: torch.Generator) -> Tensor:
    """`n` random numbers from Beta(alpha, alpha), float64, on the generator's device.

    They are X / (X + Y) for two gamma variables, computed in logarithms: Gamma(alpha) is Gamma(alpha + 1) times
    U^(1/alpha) (Marsaglia and Tsang, 2000), and for a small alpha X and Y underflow, which would give 0/0.
    """
    shape = torch.full((2, n), alpha + 1, dtype=torch.float64, device=generator.device)
    gamma = torch._standard_gamma(shape, generator=generator)
    uniform = 1 - torch.rand((2, n), dtype=torch.float64, generator=generator, device=generator.device)
    logarithm = gamma.log() + uniform.log() / alpha
    return torch.sigmoid(logarithm[0] - logarithm[1])
