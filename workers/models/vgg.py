"""VGG: the deep network without shortcuts. Its spec is `search_spaces.models.VGG`."""

from __future__ import annotations

from torch import nn

from search_spaces.models import VGG
from workers.models.initialization import initialize
from workers.models.layers import PlainNetwork, convolution, halves
from workers.models.normalization import Normalizer

CONVOLUTIONS_PER_STAGE = 2
LARGEST_FACTOR = 8


def build(spec: VGG, normalizer: Normalizer, channels: int, classes: int, image_size: int) -> nn.Module:
    """`depth` stages; channels double from `width` up to eight times `width`, as in the paper from 64 to 512."""
    body, side, inputs = nn.Sequential(), image_size, channels
    for stage in range(spec.depth):
        outputs = spec.width * min(LARGEST_FACTOR, 2**stage)
        for _ in range(CONVOLUTIONS_PER_STAGE):
            body.append(convolution(inputs, outputs, normalizer))
            inputs = outputs
        if halves(side):
            body.append(nn.MaxPool2d(2))
            side //= 2
    network = PlainNetwork(body, inputs, side, spec.hidden, spec.dropout, classes, normalizer)
    initialize(network, spec.initialization, network.head)
    return network
