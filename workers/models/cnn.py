"""CNN: the small convolutional network. Its spec is `search_spaces.models.CNN`."""

from __future__ import annotations

from torch import nn

from search_spaces.models import CNN
from workers.models.initialization import initialize
from workers.models.layers import PlainNetwork, convolution, halves
from workers.models.normalization import Normalizer


def build(spec: CNN, normalizer: Normalizer, channels: int, classes: int, image_size: int) -> nn.Module:
    """`depth` times convolution, normalization, ReLU, max pooling; then the linear layers."""
    body, side, inputs, outputs = nn.Sequential(), image_size, channels, spec.width
    for _ in range(spec.depth):
        body.append(convolution(inputs, outputs, normalizer))
        if halves(side):
            body.append(nn.MaxPool2d(2))
            side //= 2
        inputs, outputs = outputs, 2 * outputs
    network = PlainNetwork(body, inputs, side, spec.hidden, spec.dropout, classes, normalizer)
    initialize(network, spec.initialization, network.head)
    return network
