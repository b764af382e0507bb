"""Routes of what may be asked: the spec's JSON Schema and the presets."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from search_spaces.experiment import ExperimentSpec
from service.api import presets
from service.api.error_handlers import error_responses
from service.contract.errors import NotFoundError
from service.contract.schemas import Preset, PresetName

router = APIRouter(tags=["catalog"])


@router.get("/schema")
def show_schema() -> dict[str, Any]:
    """The JSON Schema of a spec, for editors and forms."""
    return ExperimentSpec.model_json_schema()


@router.get("/presets")
def list_presets() -> list[PresetName]:
    """Ready-made specs, each one valid as it is."""
    return presets.names()


@router.get("/presets/{name}", responses=error_responses(NotFoundError))
def show_preset(name: str) -> Preset:
    """One preset, as data and as the commented YAML file."""
    return presets.load(name)
