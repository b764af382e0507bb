"""Build: from a model's spec to its network. Owns the table of builders. It must not know data, training or files."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from search_spaces.models import CNN, VGG, PluginModel, ResNet, TorchvisionModel
from search_spaces.normalization import NormalizationSpec
from search_spaces.spec import Spec
from workers.models import adapted, cnn, plugins, resnet, vgg
from workers.models.normalization import Normalizer

#: Spec class -> builder `(spec, normalizer, channels, classes, image_size)`. Builders draw weights from torch's global
#: generator, which the caller seeds.
BUILDERS: dict[type[Spec], Callable[..., nn.Module]] = {
    CNN: cnn.build,
    ResNet: resnet.build,
    VGG: vgg.build,
    TorchvisionModel: adapted.build,
    PluginModel: plugins.build,
}


def build_model(
    spec: Spec, normalization: NormalizationSpec, channels: int, classes: int, image_size: int
) -> nn.Module:
    """A new model that maps images (N, channels, image_size, image_size) to logits (N, classes).

    Raises ValueError if the model does not accept the normalization.
    """
    if type(spec) not in BUILDERS:
        names = ", ".join(cls.__name__ for cls in BUILDERS)
        raise ValueError(f"a model's spec must be one of {names} (got {type(spec).__name__})")
    return BUILDERS[type(spec)](spec, Normalizer(normalization), channels, classes, image_size)
