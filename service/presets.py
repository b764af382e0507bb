"""Presets: the ready-made specs that are shipped with `search_spaces`."""

from __future__ import annotations

from importlib.resources import files

from search_spaces.document import read
from search_spaces.problems import unknown
from service.errors import NotFound
from service.schemas import Preset, PresetName

FOLDER = "presets"
SUFFIX = ".yaml"


def names() -> list[PresetName]:
    """All presets in alphabetical order."""
    return [PresetName(name=preset.name, description=preset.description) for preset in map(load, _stems())]


def load(name: str) -> Preset:
    """A preset as it is shipped. Raises NotFound, with the nearest name."""
    stems = _stems()
    if name not in stems:
        raise NotFound(unknown("preset", name, stems))
    text = (files("search_spaces") / FOLDER / f"{name}{SUFFIX}").read_text("utf-8")
    spec = read(text.encode(), "application/yaml")
    return Preset(name=name, description=str(spec.get("description", "")), spec=spec, yaml=text)


def _stems() -> list[str]:
    found = (entry.name for entry in (files("search_spaces") / FOLDER).iterdir())
    return sorted(name.removesuffix(SUFFIX) for name in found if name.endswith(SUFFIX))
