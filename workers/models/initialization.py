"""Initialization: where the weights of our own networks start (lecture L15).

Kaiming (He et al., 2015) keeps the variance of signals through layers that end in ReLU. A residual
branch that starts at zero makes every block an identity at first (Goyal et al., 2017).
"""

from __future__ import annotations

from typing import Literal

from torch import nn

Scheme = Literal["kaiming", "torch"]


def initialize(model: nn.Module, scheme: Scheme, head: nn.Linear) -> None:
    """Fill the weights in place; `head` is the last layer, which no ReLU follows. "torch" leaves all as made."""
    if scheme == "torch":
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            gain: Literal["linear", "relu"] = "linear" if module is head else "relu"
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity=gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def start_at_zero(convolution: nn.Conv2d, normalization: nn.Module) -> None:
    """Make the end of a residual branch zero: the normalization's scale, or the convolution where there is none."""
    last = convolution if isinstance(normalization, nn.Identity) else normalization
    if not isinstance(last.weight, nn.Parameter):
        raise TypeError(f"{last} has no weight to start at zero")
    nn.init.zeros_(last.weight)
    if isinstance(last, nn.Conv2d) and last.bias is not None:
        nn.init.zeros_(last.bias)
