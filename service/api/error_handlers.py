"""Responses: one place where exceptions become `application/problem+json`, and where that is documented."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException

from search_spaces.problems import MAX_PROBLEMS, Problem, SpecError, shorten
from search_spaces.validation import rule_of
from service.contract.errors import (
    MEDIA_TYPE,
    BadRequestError,
    DiskFullError,
    InternalError,
    RungError,
    UnavailableError,
    ValidationFailedError,
    of_status,
    summary,
)
from service.store.database import is_full

log = logging.getLogger(__name__)


def problem_response(error: RungError) -> JSONResponse:
    return JSONResponse(error.document(), error.status, headers=error.headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Every failure of a request leaves by one of these doors."""
    app.add_exception_handler(RungError, _rung)
    app.add_exception_handler(SpecError, _spec)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OperationalError, _database)
    app.add_exception_handler(Exception, _anything)


def error_responses(*classes: type[RungError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route, for its documentation."""
    schema = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
    return {cls.status: {"description": cls.title, "content": {MEDIA_TYPE: schema}} for cls in classes}


def _rung(_request: Request, error: Exception) -> JSONResponse:
    return problem_response(error if isinstance(error, RungError) else InternalError(str(error)))


def _spec(_request: Request, error: Exception) -> JSONResponse:
    found = error.problems if isinstance(error, SpecError) else ()
    return problem_response(ValidationFailedError(summary(found), found))


def _validation(_request: Request, error: Exception) -> JSONResponse:
    found = []
    for item in error.errors() if isinstance(error, RequestValidationError) else ():
        place, *path = item.get("loc", ("",))
        if item.get("type") == "json_invalid":
            return problem_response(
                BadRequestError(f"malformed JSON: {item.get('ctx', {}).get('error', item.get('msg'))}")
            )
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
        field = "".join(steps).removeprefix(".") or str(place)
        found.append(Problem(field, rule_of(item), shorten(item.get("input"))))
    said = found[:MAX_PROBLEMS]
    if len(found) > MAX_PROBLEMS:
        said.append(Problem("", f"and {len(found) - MAX_PROBLEMS} more problems"))
    return problem_response(ValidationFailedError(summary(found), said))


def _http(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    cls = of_status(status)
    detail = str(getattr(error, "detail", "")) or cls.title
    if status == 404:
        detail = f"there is nothing at {shorten(request.url.path)}"
    elif status == 405:
        detail = f"{request.method} is not for {shorten(request.url.path)}"
    return problem_response(cls(detail, headers=headers))


def _database(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, OperationalError) and is_full(error):
        log.warning("the disk of the database is full: %s", error)
        return problem_response(
            DiskFullError("the disk of the database is full; nothing was changed", headers={"Retry-After": "60"})
        )
    log.warning("the database does not answer: %s", error)
    return problem_response(
        UnavailableError("the database does not answer; try again in a moment", headers={"Retry-After": "2"})
    )


def _anything(_request: Request, _error: Exception) -> JSONResponse:
    return problem_response(InternalError("the service failed in a way that nobody foresaw; its log says how"))
