"""Presets: ready-made specs in this package as commented YAML, one file each."""

from __future__ import annotations

from pathlib import Path

from search_spaces.experiment import ExperimentSpec
from search_spaces.parsing import read
from search_spaces.problems import Problem, SpecError, unknown
from search_spaces.validation import validate

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """All presets in alphabetical order."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name: str) -> str:
    """The YAML of a preset, comments included. Raises SpecError naming the nearest for an unknown one."""
    if name not in names():
        raise SpecError([Problem("preset", unknown(name, names()), name)])
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def spec(name: str) -> ExperimentSpec:
    """A preset as a validated spec. Raises SpecError as `load` does."""
    return validate(read(load(name).encode(), "application/yaml"))
