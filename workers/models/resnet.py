"""ResNet: residual networks for small images. Their spec is `search_spaces.models.ResNet`.

Depth 9 is the network of the speed records (Page, 2018): two of its three stages end in a residual block. Page's
branches end in a ReLU, which passes no gradient while the branch is zero; in ours the ReLU follows the sum.
Depths 18 and 6n + 2 follow He et al., 2016, with a 3x3 stem, and 1x1 projections where the shape changes.
"""

from __future__ import annotations

from torch import Tensor, nn

from search_spaces.models import ResNet
from workers.models.initialization import initialize, start_at_zero
from workers.models.layers import convolution, halves, projection
from workers.models.normalization import Normalizer


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; their output is added to a shortcut before the last ReLU."""

    def __init__(self, inputs: int, outputs: int, normalizer: Normalizer, stride: int = 1) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs, normalizer, stride)
        self.last_convolution = nn.Conv2d(outputs, outputs, 3, padding=1, bias=normalizer.bias)
        self.last_normalization = normalizer.image(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(projection(inputs, outputs, normalizer, stride), normalizer.image(outputs))

    def forward(self, images: Tensor) -> Tensor:
        branch: Tensor = self.last_normalization(self.last_convolution(self.first(images)))
        shortcut: Tensor = self.shortcut(images)
        return (branch + shortcut).relu_()


class ResidualNetwork(nn.Module):
    """A convolutional `body`, the mean or the largest value of each channel, dropout, `head`."""

    def __init__(self, body: nn.Sequential, channels: int, classes: int, dropout: float, largest: bool) -> None:
        super().__init__()
        self.body = body
        self.largest = largest
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.body(images)
        features = maps.amax((2, 3)) if self.largest else maps.mean((2, 3))
        logits: Tensor = self.head(self.dropout(features))
        return logits


def build(spec: ResNet, normalizer: Normalizer, channels: int, classes: int, image_size: int) -> nn.Module:
    """The residual network of `depth` weighted layers; projections are not counted."""
    if spec.depth == 9:
        body, outputs = _fast(spec.width, normalizer, channels, image_size)
    else:
        blocks = [2, 2, 2, 2] if spec.depth == 18 else [(spec.depth - 2) // 6] * 3
        body, outputs = _stages(blocks, spec.width, normalizer, channels, image_size)
    network = ResidualNetwork(body, outputs, classes, spec.dropout, largest=spec.depth == 9)
    initialize(network, spec.initialization, network.head)
    if spec.zero_init_residual:
        for module in network.modules():
            if isinstance(module, BasicBlock):
                start_at_zero(module.last_convolution, module.last_normalization)
    return network


def _fast(width: int, normalizer: Normalizer, channels: int, side: int) -> tuple[nn.Sequential, int]:
    body = nn.Sequential(convolution(channels, width, normalizer))
    for factor, residual in ((2, True), (4, False), (8, True)):
        body.append(convolution(width * factor // 2, width * factor, normalizer))
        if halves(side):
            body.append(nn.MaxPool2d(2))
            side //= 2
        if residual:
            body.append(BasicBlock(width * factor, width * factor, normalizer))
    return body, width * 8


def _stages(
    blocks: list[int], width: int, normalizer: Normalizer, channels: int, side: int
) -> tuple[nn.Sequential, int]:
    body, inputs = nn.Sequential(convolution(channels, width, normalizer)), width
    for stage, count in enumerate(blocks):
        outputs = width * 2**stage
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 and halves(side) else 1
            side = -(-side // stride)
            body.append(BasicBlock(inputs, outputs, normalizer, stride))
            inputs = outputs
    return body, inputs
