"""Plugins: models from installed packages, found as entry points of the group `rung.models`.

An entry point names a callable `(normalizer, channels, classes, image_size, **arguments) -> nn.Module`;
`docs/plugins.md` shows one. Only the requested entry point is imported.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from torch import nn

from search_spaces.models import PluginModel
from workers.models.normalization import Normalizer
from workers.targets import ImportTargetError

GROUP = "rung.models"


def build(spec: PluginModel, normalizer: Normalizer, channels: int, classes: int, image_size: int) -> nn.Module:
    """The plugin's model. Raises ImportTargetError if it cannot be imported, TypeError if it makes no module
    and ValueError if nothing of it can be trained."""
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if spec.name not in installed:
        names = ", ".join(sorted(installed)) or "none"
        raise ImportTargetError(
            f"model plugin {spec.name} is not installed; installed plugins of the group {GROUP}: {names}"
        )
    try:
        maker = installed[spec.name].load()
    except (ImportError, AttributeError) as error:
        raise ImportTargetError(f"model plugin {spec.name} cannot be imported: {error}") from error
    given = dict(zip(PluginModel.GIVEN, (normalizer, channels, classes, image_size), strict=True))
    model = maker(**given, **spec.arguments)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model plugin {spec.name} must return a torch.nn.Module (got {type(model).__name__})")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"model plugin {spec.name} must return a model with trainable parameters (got none)")
    return model
