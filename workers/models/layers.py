"""Layers: the pieces that our networks share: convolution with its normalization, the end of a network.

They must not know specs other than the normalization's. Maps are halved only while their side is
MINIMUM_SIDE * 2 or more, so that every normalization has several values to look at.
"""

from __future__ import annotations

from torch import Tensor, nn

from workers.models.normalization import Normalizer

MINIMUM_SIDE = 2
FLAT_SIDE = 8


def convolution(inputs: int, outputs: int, normalizer: Normalizer, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, normalization, ReLU; the image keeps its side at stride 1."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=normalizer.bias),
        normalizer.image(outputs),
        nn.ReLU(inplace=True),
    )


def halves(side: int) -> bool:
    """Whether a map of this side may still be halved."""
    return side >= 2 * MINIMUM_SIDE


def hidden(inputs: int, outputs: int, normalizer: Normalizer) -> nn.Sequential:
    """Linear layer, normalization, ReLU."""
    return nn.Sequential(
        nn.Linear(inputs, outputs, bias=normalizer.bias), normalizer.vector(outputs), nn.ReLU(inplace=True)
    )


class Flatten(nn.Module):
    """(N, C, side, side) to (N, features); large maps are averaged down to at most FLAT_SIDE a side first."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        factor = -(-side // FLAT_SIDE)
        self.pool = nn.AvgPool2d(factor) if factor > 1 else nn.Identity()
        self.features = channels * (side // factor) ** 2

    def forward(self, images: Tensor) -> Tensor:
        flat: Tensor = self.pool(images).flatten(1)
        return flat


class PlainNetwork(nn.Module):
    """Convolutional `body`, flattened, an optional hidden linear layer, dropout, `head`: the CNN's and VGG's shape."""

    def __init__(
        self,
        body: nn.Sequential,
        channels: int,
        side: int,
        features: int,
        dropout: float,
        classes: int,
        normalizer: Normalizer,
    ) -> None:
        super().__init__()
        self.body = body
        self.flatten = Flatten(channels, side)
        self.hidden = hidden(self.flatten.features, features, normalizer) if features else nn.Identity()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(features or self.flatten.features, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.hidden(self.flatten(self.body(images)))))
        return logits
