"""OpenAPI: the document that describes the REST interface, and interactive pages from installed files, not from a CDN.

Routes describe themselves. Owns what they all share: the introduction, the tags, the errors that any route may answer,
and the schemas of bodies that routes parse by themselves.
"""

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
from search_spaces.protocol import Heartbeat
from service.api import headers, routes, security_headers
from service.api.callers import declared, public
from service.api.error_handlers import error_responses
from service.contract.errors import (
    BadRequestError,
    ContentTooLargeError,
    DiskFullError,
    ForbiddenError,
    InternalError,
    ProblemDocument,
    RequestTimeoutError,
    UnauthorizedError,
    UnavailableError,
    ValidationFailedError,
)
from service.identity.permissions import Permission

ASSETS = "/docs/assets"
REFERENCE = "#/components/schemas/{model}"
DESCRIPTION = """\
Submit one declarative spec; Rung queues it, runs its trials on the cluster, stops the weaker ones early, and writes
every learning curve to MLflow.

Every error is an `application/problem+json` document (RFC 9457): `detail` describes the error in one sentence, and
`errors` lists each field with its rule and the value that was sent. `HEAD` works for every path that supports `GET`,
`OPTIONS` for every path. Unsupported methods return 405 with the supported ones in `Allow`. A query parameter that is
given twice is an error, unless it is a list.

Responses about one experiment have an `ETag`, its revision. Send it back in `If-Match`, and a change is rejected with
412 if somebody changed the experiment meanwhile. Send an `Idempotency-Key` with a submission, and you may repeat the
request after a lost response: for a day, and while that experiment exists, it creates no other one.

A service with accounts wants a bearer token (`rung login`) with each request; `GET /api/v1/auth` says how to get one.
An operation names the permission that it needs (`x-permission`). What you may not see is answered as if it did not
exist.
"""
TAGS = [
    {
        "name": "experiments",
        "description": "Submit, list and show experiments; pause, resume, cancel, change, continue and delete.",
    },
    {"name": "trials", "description": "The trials of an experiment: their results, specs and learning curves."},
    {"name": "logs", "description": "The logs and the disk usage of an experiment."},
    {"name": "catalog", "description": "What can be submitted: the JSON Schema of a spec, and ready-made specs."},
    {"name": "system", "description": "The health of the service, and the state of the cluster."},
    {"name": "accounts", "description": "People, teams, tokens, and the record of what they changed."},
    {"name": "webhooks", "description": "Where teams are notified of what happens to their experiments."},
    {"name": "drivers", "description": "Used by the driver processes that Rung starts."},
]
#: Errors that any route may answer.
COMMON = error_responses(
    BadRequestError,
    ForbiddenError,
    RequestTimeoutError,
    ContentTooLargeError,
    ValidationFailedError,
    InternalError,
    UnavailableError,
)
#: Errors that any route may answer that changes something.
COMMON_TO_CHANGES = error_responses(DiskFullError)
_NEW = {"experiment_id": "$response.body#/id"}
#: Operations whose responses describe an experiment or a trial, the status, and where each path parameter is found.
LINKED: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("submit_experiment", "201", _NEW),
    ("continue_experiment", "201", _NEW),
    ("list_experiments", "200", {"experiment_id": "$response.body#/items/0/id"}),
    (
        "list_trials",
        "200",
        {"experiment_id": "$request.path.experiment_id", "trial": "$response.body#/items/0/trial"},
    ),
)


def install(app: FastAPI) -> None:
    """Serve `/docs`, and complete the OpenAPI document with what routes do not declare themselves."""
    # Only the static files of the package are used.
    app.mount(ASSETS, StaticFiles(directory=str(files("fastapi_offline") / "static")), name="docs-assets")

    @app.get("/docs", include_in_schema=False, dependencies=[public()])
    def show_docs() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url=str(app.openapi_url),
            title=app.title,
            swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{ASSETS}/favicon.png",
            swagger_ui_parameters={"tryItOutEnabled": True, "defaultModelsExpandDepth": 0},
        )
        page.headers[security_headers.POLICY] = security_headers.policy_of_page(bytes(page.body).decode())
        return page

    @app.get("/", include_in_schema=False, dependencies=[public()])
    def show_home() -> RedirectResponse:
        return RedirectResponse("/docs")

    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]  # how FastAPI's manual says to change the document


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=DESCRIPTION, tags=TAGS, routes=app.routes
        )
        document["paths"] = dict(sorted(document["paths"].items()))
        schemas = document["components"]["schemas"]
        for model in (ExperimentSpec, TrialSpec, Heartbeat, ProblemDocument):
            schemas[model.__name__] = _schema(model, schemas)
        schemas["ControlsPatch"] = _patch_of(Controls, schemas)
        permissions = {route.name: declared(route) for route in routes.all_routes()}
        for path in document["paths"].values():
            for method, operation in path.items():
                _document_errors(method, operation["responses"])
                _document_access(operation, permissions[operation["operationId"]])
        _link(document["paths"])
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema


def _link(paths: dict[str, Any]) -> None:
    """Say where an experiment that a response describes can be used, and a trial of a list."""
    operations = {operation["operationId"]: operation for path in paths.values() for operation in path.values()}
    for name, status, source in LINKED:
        operations[name]["responses"][status]["links"] = {
            used: {
                "operationId": used,
                "description": f"{operation['summary']}: the one of this response.",
                "parameters": {parameter: source[parameter] for parameter in needed},
            }
            for used, operation in operations.items()
            if (needed := _path_parameters(operation)) and used != name and needed == source.keys()
        }


def _path_parameters(operation: dict[str, Any]) -> set[str]:
    return {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"}


def _schema(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema of a model as a request has it; the definitions that it refers to replace those in `schemas`."""
    schema = model.model_json_schema(ref_template=REFERENCE)
    schemas.update(schema.pop("$defs", {}))
    return schema


def _patch_of(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """The schema of a merge patch: every field may be absent, or null for its default where it has one."""
    schema = _schema(model, schemas)
    required = schema.get("required", ())
    fields = {}
    for name, field in schema["properties"].items():
        nullable = {"anyOf": [field, {"type": "null"}], "description": field["description"]}
        fields[name] = field if name in required else nullable
    return {
        "type": "object",
        "title": "ControlsPatch",
        "description": "Fields that are absent keep their value; null resets a field to its default.",
        "additionalProperties": False,
        "properties": fields,
    }


def _document_access(operation: dict[str, Any], permission: Permission | None) -> None:
    """Which permission an operation needs, and that each response has the id of its request."""
    if permission is not None:
        operation["x-permission"] = permission
        operation["responses"] |= {str(status): body for status, body in error_responses(UnauthorizedError).items()}
    for response in operation["responses"].values():
        response["headers"] = {**response.get("headers", {}), **headers.described(headers.REQUEST_ID)}


def _document_errors(method: str, responses: dict[str, Any]) -> None:
    """Add the errors that every route may answer, and replace FastAPI's own 422, which this service never sends."""
    if "HTTPValidationError" in str(responses.get("422", "")):
        responses |= {str(status): body for status, body in error_responses(ValidationFailedError).items()}
    common = COMMON if method == "get" else {**COMMON, **COMMON_TO_CHANGES}
    for status, body in common.items():
        responses.setdefault(str(status), body)
