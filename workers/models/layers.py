"""Layers: the parts that our networks share: a convolution with its normalization, and the end of a network.

They must not know any spec except the normalization's. Maps are halved only while their side is at least
2 * MINIMUM_SIDE, so that every normalization computes its statistics over several values.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from workers.models.normalization import Normalizer

MINIMUM_SIDE = 2
FLAT_SIDE = 8
#: A projection of fewer channels that halves the image makes oneDNN write beyond its memory, on CPUs with AVX2 and
#: without AVX-512 (torch 2.14.1; seen with 1 to 6 channels in the order of channels_last).
NARROW = 8


class NarrowProjection(nn.Conv2d):
    """A 1x1 convolution with a stride, of less than NARROW channels: the same without the values that it skips."""

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = self.stride
        return functional.conv2d(images[:, :, ::rows, ::columns], self.weight, self.bias)


def projection(inputs: int, outputs: int, normalizer: Normalizer, stride: int) -> nn.Conv2d:
    """1x1 convolution that changes the number of channels, and with a stride the side of the image."""
    kind = NarrowProjection if inputs < NARROW and stride != 1 else nn.Conv2d
    return kind(inputs, outputs, 1, stride=stride, bias=normalizer.bias)


def convolution(inputs: int, outputs: int, normalizer: Normalizer, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, normalization, ReLU. With stride 1 the side of the image does not change."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=normalizer.bias),
        normalizer.image(outputs),
        nn.ReLU(inplace=True),
    )


def halves(side: int) -> bool:
    """Whether a map of this side may be halved again."""
    return side >= 2 * MINIMUM_SIDE


def hidden(inputs: int, outputs: int, normalizer: Normalizer) -> nn.Sequential:
    """Linear layer, normalization, ReLU."""
    return nn.Sequential(
        nn.Linear(inputs, outputs, bias=normalizer.bias), normalizer.vector(outputs), nn.ReLU(inplace=True)
    )


class Flatten(nn.Module):
    """Maps (N, C, side, side) to (N, features). Average pooling first reduces large maps to at most FLAT_SIDE."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        factor = -(-side // FLAT_SIDE)
        self.pool = nn.AvgPool2d(factor) if factor > 1 else nn.Identity()
        self.features = channels * (side // factor) ** 2

    def forward(self, images: Tensor) -> Tensor:
        flat: Tensor = self.pool(images).flatten(1)
        return flat


class PlainNetwork(nn.Module):
    """The CNN and VGG: a convolutional `body`, flattening, an optional hidden linear layer, dropout, `head`."""

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
