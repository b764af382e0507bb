"""Error handlers: the one place where an exception becomes a response, and where error responses are documented.

Each handler is a coroutine that waits for nothing: Starlette would run a plain function in a thread.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from search_spaces.problems import MAX_PROBLEMS, Problem, SpecError, shorten
from search_spaces.validation import rule_of
from service.api import headers
from service.api.security_headers import HEADERS as SECURITY_HEADERS
from service.contract.errors import (
    MEDIA_TYPE,
    SEE_LOG,
    BadRequestError,
    DiskFullError,
    InternalError,
    MethodNotAllowedError,
    RungError,
    TooManyRequestsError,
    UnauthorizedError,
    UnavailableError,
    ValidationFailedError,
    of_status,
    summary,
)
from service.store.database import DatabaseFileLostError, DatabaseReadOnlyError, is_full

#: Seconds after which a client may try again: a database that restarts, a disk that somebody has to clear.
RETRY_DATABASE_S = 2
RETRY_DISK_S = 60
UNTRANSLATABLE = "22P05"  # what PostgreSQL reports for a character that its encoding lacks
#: Fields whose value is not repeated in a response.
SECRETS = frozenset({"password", "old", "new", "id_token"})
NO_ANSWER = "the database does not answer; try again in a moment"
#: Headers that a kind of error may carry.
ERROR_HEADERS: dict[type[RungError], tuple[str, ...]] = {
    UnauthorizedError: (headers.AUTHENTICATE,),
    TooManyRequestsError: (headers.RETRY_AFTER,),
    UnavailableError: (headers.RETRY_AFTER,),
    DiskFullError: (headers.RETRY_AFTER,),
}

log = logging.getLogger(__name__)


def problem_response(error: RungError) -> JSONResponse:
    """The error as `application/problem+json`."""
    return JSONResponse(error.document(), error.status, headers=error.headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Have every exception of a route answered by `_respond`."""
    app.add_exception_handler(RungError, _rung)
    app.add_exception_handler(SpecError, _spec)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OperationalError, _database)
    app.add_exception_handler(PoolTimeoutError, _database)
    app.add_exception_handler(DataError, _data)
    app.add_exception_handler(ClientDisconnect, _client_left)
    app.add_exception_handler(Exception, _unexpected)


def error_responses(*classes: type[RungError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route, for its documentation."""
    schema = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
    return {
        cls.status: {
            "description": cls.title,
            "content": {MEDIA_TYPE: schema},
            "headers": headers.described(*ERROR_HEADERS.get(cls, ())),
        }
        for cls in classes
    }


def unavailable(failure: str, error: Exception) -> UnavailableError:
    """What to answer when something that the service needs failed; the error itself is logged."""
    log.warning("%s: %s", failure, error)
    return UnavailableError(f"{failure}; {SEE_LOG}")


def _respond(_request: Request, error: RungError) -> Response:
    """Every error of a route leaves the service here. Error pages, chosen by the request's Accept, belong here too."""
    return problem_response(error)


async def _rung(request: Request, error: Exception) -> Response:
    return _respond(request, error if isinstance(error, RungError) else InternalError(str(error)))


async def _spec(request: Request, error: Exception) -> Response:
    problems = error.problems if isinstance(error, SpecError) else ()
    return _respond(request, ValidationFailedError(summary(problems), problems))


async def _validation(request: Request, error: Exception) -> Response:
    problems: list[Problem] = []
    more = 0
    for item in error.errors() if isinstance(error, RequestValidationError) else ():
        source, *path = item.get("loc", ("",))
        if item.get("type") == "json_invalid":
            cause = item.get("ctx", {}).get("error", item.get("msg"))
            return _respond(request, BadRequestError(f"malformed JSON: {cause}"))
        if len(problems) < MAX_PROBLEMS:
            if source == "query":  # a parameter that may be repeated: its value says which one is meant
                path = [step for step in path if isinstance(step, str)]
            steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
            field = "".join(steps).removeprefix(".") or str(source)
            shown = None if field in SECRETS else shorten(item.get("input"))
            problems.append(Problem(field, rule_of(item), shown))
        else:
            more += 1
    sentence = summary(problems, more)
    if more:
        problems.append(Problem("", f"and {more} more problems"))
    return _respond(request, ValidationFailedError(sentence, problems))


async def _http(request: Request, error: Exception) -> Response:
    """Errors of the framework itself: no route has the path, or a file of the documentation is asked for."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    sent = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    cls, path = of_status(status), shorten(request.url.path)
    if status == 404:
        problem = Problem("path", "must be a path of this service", path)
        return _respond(request, cls(f"there is nothing at {path}", [problem], sent))
    if cls is MethodNotAllowedError:  # of static files; routes are checked by AllowedMethodsMiddleware
        return _respond(request, method_not_allowed(request.method, request.url.path, ("GET", "HEAD")))
    return _respond(request, cls(str(getattr(error, "detail", "")) or cls.title, headers=sent))


def method_not_allowed(method: str, path: str, allowed: tuple[str, ...]) -> MethodNotAllowedError:
    """The error for a method that a path does not support, with all that it supports."""
    problem = Problem("method", f"must be one of {', '.join(allowed)}", method)
    detail = f"{method} is not allowed for {shorten(path)}"
    return MethodNotAllowedError(detail, [problem], {headers.ALLOW: ", ".join(allowed)})


async def _database(request: Request, error: Exception) -> Response:
    return _respond(request, database_error(error))


def database_error(error: Exception) -> RungError:
    """What to answer where the database failed; the error itself is logged."""
    if isinstance(error, OperationalError) and is_full(error):
        log.warning("the disk of the database is full: %s", error)
        sent = {headers.RETRY_AFTER: str(RETRY_DISK_S)}
        return DiskFullError("the disk of the database is full; nothing was changed", headers=sent)
    log.warning("the database does not answer: %s", error)
    sent = {headers.RETRY_AFTER: str(RETRY_DATABASE_S)}
    match error:
        case DatabaseFileLostError():
            why = "the file of the database was deleted or replaced; nothing was changed"
        case DatabaseReadOnlyError():
            why = "the database is read-only; nothing was changed"
        case _:
            why = NO_ANSWER
    return UnavailableError(why, headers=sent)


async def _data(request: Request, error: Exception) -> Response:
    """Of what a request may contain, only a PostgreSQL database of version 0.1 without UTF8 cannot take everything."""
    if not isinstance(error, DataError) or getattr(error.orig, "sqlstate", None) != UNTRANSLATABLE:
        raise error
    sentence = "the encoding of the service's database lacks a character of this request; nothing was changed"
    return _respond(request, ValidationFailedError(sentence, [Problem("", sentence)]))


async def _client_left(request: Request, _error: Exception) -> Response:
    """Nobody receives it: the client left before the end of its body."""
    return _respond(request, BadRequestError("the request body has no end"))


async def _unexpected(request: Request, _error: Exception) -> Response:
    """Starlette sends this response from outside every middleware, so that it needs the security headers here."""
    response = _respond(request, InternalError("Internal error; see the service log for details."))
    own = {headers.REQUEST_ID: getattr(request.state, headers.REQUEST_STATE, "")}
    for name, value in {**SECURITY_HEADERS, **own}.items():
        response.headers.setdefault(name, value)
    return response
