"""Presets as REST shows them; `search_spaces.presets` lists and loads them."""

from __future__ import annotations

from search_spaces import presets
from search_spaces.parsing import read
from search_spaces.problems import unknown
from service.contract.errors import NotFoundError
from service.contract.schemas import Preset, PresetName


def names() -> list[PresetName]:
    """All presets in alphabetical order."""
    return [PresetName(name=name, description=load(name).description) for name in presets.names()]


def load(name: str) -> Preset:
    """A preset as it is shipped. Raises NotFoundError, with the nearest name."""
    if name not in presets.names():
        raise NotFoundError(f"preset {name!r} {unknown(name, presets.names())}")
    text = presets.load(name)
    spec = read(text.encode(), "application/yaml")
    return Preset(name=name, description=str(spec.get("description", "")), spec=spec, yaml=text)
