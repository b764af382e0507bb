"""Presets as the REST interface shows them; `search_spaces.presets` lists and loads them."""

from __future__ import annotations

from search_spaces import presets
from search_spaces.parsing import read
from search_spaces.problems import Problem, unknown
from service.contract.errors import NotFoundError
from service.contract.schemas import Preset, PresetName


def names() -> list[PresetName]:
    """All presets in alphabetical order."""
    return [PresetName(name=name, description=load(name).description) for name in presets.names()]


def load(name: str) -> Preset:
    """One preset. Raises NotFoundError, which suggests the nearest name."""
    if name not in presets.names():
        rule = unknown(name, presets.names())
        raise NotFoundError(f"preset {name!r} {rule}", [Problem("name", rule, name)])
    text = presets.load(name)
    spec = read(text.encode(), "application/yaml")
    return Preset(name=name, description=str(spec.get("description", "")), spec=spec, yaml=text)
