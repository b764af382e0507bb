"""Initialization: the first weights of our own networks (docs/training.md, L15).

Kaiming's initialization (He et al., 2015) keeps the variance of signals through layers that end in ReLU. A residual
branch whose last weights are zero makes every block an identity at first (Goyal et al., 2017).
"""

from __future__ import annotations

from typing import Literal

from torch import nn

Scheme = Literal["kaiming", "torch"]


def initialize(model: nn.Module, scheme: Scheme, head: nn.Linear) -> None:
    """Set the weights in place; no ReLU follows `head`, the last layer. "torch" keeps torch's own initialization."""
    if scheme == "torch":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            gain: Literal["linear", "relu"] = "linear" if module is head else "relu"
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity=gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def start_at_zero(convolution: nn.Conv2d, normalization: nn.Module) -> None:
    """Set the last weights of a residual branch to zero: the normalization's scale, or without one the convolution."""
    last = convolution if isinstance(normalization, nn.Identity) else normalization
    if not isinstance(last.weight, nn.Parameter):
        raise TypeError(f"the normalization that ends a residual branch must have a weight (got {last})")
    nn.init.zeros_(last.weight)
    if isinstance(last, nn.Conv2d) and last.bias is not None:
        nn.init.zeros_(last.bias)
