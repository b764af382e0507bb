"""Normalization: from a normalization spec to the layers of a network (docs/training.md, L13, L14).

Owns which torch layer implements each kind, after a convolution and after a hidden linear layer. It must not know any
network. The values that share one mean and deviation, for signals of shape (N, C, H, W) and (N, F):

| kind     | after a convolution             | after a hidden linear layer             |
|----------|---------------------------------|-----------------------------------------|
| batch    | (N, H, W) for each channel      | N for each feature                      |
| layer    | (C, H, W) for each sample       | F for each sample                       |
| instance | (H, W) for each sample, channel | F for each sample: one vector, one instance |
| group    | (C/groups, H, W) for each sample, group | F/groups for each sample, group |
| none     | nothing                         | nothing                                 |

Every layer then scales and shifts each channel or feature by learned values.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from search_spaces.normalization import Batch, Group, Instance, Layer, NoNormalization, NormalizationSpec

Maker = Callable[[int], nn.Module]


class Normalizer:
    """Makes the normalization layers of one network.

    `bias` is whether the layer before it needs a bias: one before a normalization that shifts has no effect.
    """

    def __init__(self, spec: NormalizationSpec) -> None:
        if type(spec) not in MAKERS:
            raise ValueError(f"normalization must be one of {', '.join(cls.__name__ for cls in MAKERS)} (got {spec!r})")
        self.spec = spec
        self.bias = isinstance(spec, NoNormalization)
        self._image, self._vector = MAKERS[type(spec)](spec)

    def image(self, channels: int) -> nn.Module:
        """A layer for signals of shape (N, channels, H, W). Raises ValueError if the groups do not divide channels."""
        return self._image(channels)

    def vector(self, features: int) -> nn.Module:
        """A layer for signals of shape (N, features). Raises ValueError if a group would have only one feature."""
        return self._vector(features)


def _batch(spec: Batch) -> tuple[Maker, Maker]:
    return (
        lambda channels: nn.BatchNorm2d(channels, eps=spec.eps, momentum=spec.momentum),
        lambda features: nn.BatchNorm1d(features, eps=spec.eps, momentum=spec.momentum),
    )


def _layer(spec: Layer) -> tuple[Maker, Maker]:
    return (
        lambda channels: nn.GroupNorm(1, channels, eps=spec.eps),
        lambda features: nn.LayerNorm(features, eps=spec.eps),
    )


def _instance(spec: Instance) -> tuple[Maker, Maker]:
    return (
        lambda channels: nn.InstanceNorm2d(channels, eps=spec.eps, affine=True),
        lambda features: nn.LayerNorm(features, eps=spec.eps),
    )


def _group(spec: Group) -> tuple[Maker, Maker]:
    def image(channels: int) -> nn.Module:
        if channels % spec.groups:
            raise ValueError(
                f"`normalization.groups` must divide the number of channels (got {spec.groups} and {channels})"
            )
        return nn.GroupNorm(spec.groups, channels, eps=spec.eps)

    def vector(features: int) -> nn.Module:
        if features % spec.groups or features == spec.groups:
            raise ValueError(
                "`normalization.groups` must divide the number of hidden features and leave at least two in each group "
                f"(got {spec.groups} and {features})"
            )
        return nn.GroupNorm(spec.groups, features, eps=spec.eps)

    return image, vector


def _none(spec: NoNormalization) -> tuple[Maker, Maker]:
    return (lambda channels: nn.Identity()), (lambda features: nn.Identity())


#: Spec class -> (layer after a convolution, layer after a hidden linear layer).
MAKERS: dict[type[NormalizationSpec], Callable[..., tuple[Maker, Maker]]] = {
    Batch: _batch,
    Layer: _layer,
    Instance: _instance,
    Group: _group,
    NoNormalization: _none,
}
