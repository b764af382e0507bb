"""Plugins: models that an installed package brings, as entry points of the group `rung.models`.

An entry point names a callable `(normalizer, channels, classes, image_size, **arguments) -> nn.Module`;
`docs/plugins.md` shows one. Nothing is imported but the one asked for.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from torch import nn

from search_spaces.models import PluginModel
from workers.models.normalization import Normalizer

GROUP = "rung.models"


def build(spec: PluginModel, normalizer: Normalizer, channels: int, classes: int, image_size: int) -> nn.Module:
    """The plugin's model. Raises LookupError for a name not installed, TypeError for what is no module."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if spec.name not in found:
        raise LookupError(f"no model plugin {spec.name} installed; group {GROUP} has {sorted(found)}")
    maker = found[spec.name].load()
    model = maker(
        normalizer=normalizer, channels=channels, classes=classes, image_size=image_size, **dict(spec.arguments)
    )
    if not isinstance(model, nn.Module):
        raise TypeError(f"model plugin {spec.name} must return a torch.nn.Module, got {type(model).__name__}")
    return model
