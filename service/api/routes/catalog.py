"""Routes of what can be submitted: the spec's JSON Schema and the presets."""

from __future__ import annotations

import json
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from search_spaces import presets
from search_spaces.experiment import ExperimentSpec
from search_spaces.parsing import read
from search_spaces.problems import Problem, unknown
from search_spaces.protocol import API_PREFIX
from service.api import headers
from service.api.callers import public
from service.api.error_handlers import error_responses
from service.contract.errors import NotFoundError
from service.contract.schemas import Preset, PresetName

router = APIRouter(prefix=API_PREFIX, tags=["catalog"])


@router.get(
    "/schema",
    summary="Get the JSON Schema of a spec",
    dependencies=[public()],
    response_model=dict[str, Any],
    responses={200: headers.success("A JSON Schema.")},
)
def show_schema() -> Response:
    """Returns the JSON Schema of an ExperimentSpec, for editors and forms."""
    return Response(_schema(), media_type="application/json")


@cache  # it takes 0.1 s, and never changes
def _schema() -> bytes:
    return json.dumps(ExperimentSpec.model_json_schema(), separators=(",", ":")).encode()


@router.get(
    "/presets",
    summary="List presets",
    dependencies=[public()],
    responses={200: headers.success("All presets, by name.")},
)
def list_presets() -> list[PresetName]:
    """Lists ready-made specs. Each one is valid without changes."""
    return [PresetName(name=name, description=_preset(name).description) for name in presets.names()]


@router.get(
    "/presets/{name}",
    summary="Get a preset",
    dependencies=[public()],
    responses={200: headers.success("The preset."), **error_responses(NotFoundError)},
)
def show_preset(
    name: Annotated[str, Path(description="Name of the preset.", examples=["digits-quick"])],
) -> Preset:
    """Returns one preset, as data and as a YAML file with comments."""
    if name not in presets.names():
        rule = unknown(name, presets.names())
        raise NotFoundError(f"preset {name!r} {rule}", [Problem("name", rule, name)])
    return _preset(name)


@cache  # presets are installed with Rung, and YAML takes long to read
def _preset(name: str) -> Preset:
    text = presets.load(name)
    spec = read(text.encode(), "application/yaml")
    return Preset(name=name, description=str(spec.get("description", "")), spec=spec, yaml=text)
