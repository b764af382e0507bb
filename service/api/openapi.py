"""Docs: the interactive pages of the REST interface, from files that are installed, never from a CDN."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel
from starlette.staticfiles import StaticFiles

from search_spaces.controls import Controls
from search_spaces.experiment import ExperimentSpec, TrialSpec
from service.contract.errors import ProblemDocument

ASSETS = "/docs/assets"
REFERENCE = "#/components/schemas/{model}"
DESCRIPTION = """\
Post one declarative spec; Rung queues it, runs its trials on the cluster under ASHA early stopping, and
writes every learning curve to MLflow.

Every error is `application/problem+json`: `detail` is one sentence, `errors` names each field, its rule and
the value that broke it.
"""
TAGS = [
    {"name": "experiments", "description": "Submit, list and show searches; pause, change, continue and remove them."},
    {"name": "trials", "description": "What each configuration reached, and its curves."},
    {"name": "catalog", "description": "What may be asked: the schema of a spec, and ready-made ones."},
    {"name": "system", "description": "Health, and the cluster as the service sees it."},
    {"name": "drivers", "description": "For Rung's own drivers."},
]


def install(app: FastAPI) -> None:
    """Serve `/docs`, and complete the OpenAPI document with what routes do not declare themselves."""
    # The package is only a bundle of files to us.
    app.mount(ASSETS, StaticFiles(directory=str(files("fastapi_offline") / "static")), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    def pages() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=str(app.openapi_url),
            title=app.title,
            swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{ASSETS}/favicon.png",
            swagger_ui_parameters={"tryItOutEnabled": True, "defaultModelsExpandDepth": 0},
        )

    @app.get("/", include_in_schema=False)
    def home() -> RedirectResponse:
        return RedirectResponse("/docs")

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=DESCRIPTION, tags=TAGS, routes=app.routes
        )
        schemas = document["components"]["schemas"]
        for model in (ExperimentSpec, TrialSpec, ProblemDocument):
            schema = model.model_json_schema(ref_template=REFERENCE)
            for name, definition in schema.pop("$defs", {}).items():
                schemas.setdefault(name, definition)
            schemas[model.__name__] = schema
        schemas["ControlsPatch"] = _patch_of(Controls, schemas)
        for path in document["paths"].values():
            for operation in path.values():
                _as_problem(operation["responses"])
        app.openapi_schema = document
    return app.openapi_schema


def _patch_of(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema of a merge patch: every field may be left out, or be null for its default, where it has one."""
    schema = model.model_json_schema(ref_template=REFERENCE)
    for name, definition in schema.pop("$defs", {}).items():
        schemas.setdefault(name, definition)
    required = schema.get("required", ())
    fields = {
        name: field if name in required else {"anyOf": [field, {"type": "null"}]}
        for name, field in schema["properties"].items()
    }
    return {"type": "object", "title": "ControlsPatch", "additionalProperties": False, "properties": fields}


def _as_problem(responses: dict[str, Any]) -> None:
    """FastAPI documents its own 422, which this service never sends."""
    schema = {"schema": {"$ref": REFERENCE.format(model=ProblemDocument.__name__)}}
    if "HTTPValidationError" in str(responses.get("422", "")):
        responses["422"] = {"description": "A rule is broken", "content": {"application/problem+json": schema}}
