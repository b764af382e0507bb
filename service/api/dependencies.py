"""Dependencies: what routes have in common about a request: the service's context, its body, its token, its headers.

The experiment that a request is about comes from `access`. Every dependency is a coroutine that waits for nothing:
FastAPI would run a plain function in a thread of people's pool, which heartbeats must not wait for.
"""

from __future__ import annotations

import re
from typing import Annotated, get_origin

from fastapi import Depends, Header, Path, Request
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import WithJsonSchema

from search_spaces.problems import MAX_PROBLEMS, Problem, shorten
from search_spaces.protocol import MAX_NUMBER
from service.api import etags, headers
from service.api.etags import IfMatch
from service.api.integers import Integer
from service.context import AppContext
from service.contract.errors import UnauthorizedError, UnsupportedMediaTypeError, ValidationFailedError, summary
from service.contract.requests import IDEMPOTENCY_KEY

MAX_IF_MATCH_LENGTH = 1000
#: As long as the column that holds it.
MAX_KEY_LENGTH = 255
CHARSET = re.compile(r';\s*charset\s*=\s*"?([^\s;"]*)', re.IGNORECASE)
#: Query parameters of a request: several times as many as any route has, of which some may be repeated.
MAX_PARAMETERS = 100
AUTHORIZATION = "Authorization"
#: Headers that the service reads; of several, only one would count. The HTTP parser does the same for Host.
GIVEN_ONCE = ("Content-Type", "If-Match", IDEMPOTENCY_KEY, "Origin", AUTHORIZATION)
#: The names of the encoding of all bodies, and of a part of it.
UTF_8 = frozenset({"utf-8", "utf8", "us-ascii"})
PRINTABLE = r"^[ -~]+$"

_bearer = HTTPBearer(auto_error=False, scheme_name="attempt", description="For drivers only: the attempt's token.")


async def _context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


async def _body(request: Request) -> bytes:
    return await request.body()


async def _content_type(request: Request) -> str:
    """Raises UnsupportedMediaTypeError for a body that declares to be compressed, or another charset than UTF-8."""
    coding = request.headers.get("content-encoding", "identity")
    if coding.strip().lower() != "identity":
        problem = Problem("Content-Encoding", "must be identity: bodies are not decompressed", shorten(coding))
        raise UnsupportedMediaTypeError(str(problem), [problem])
    given = request.headers.get("content-type", "")
    declared = CHARSET.search(given)
    if declared and declared[1].lower() not in UTF_8:
        problem = Problem("Content-Type", "must have no charset other than utf-8", shorten(declared[1]))
        raise UnsupportedMediaTypeError(str(problem), [problem])
    return given


async def reject_repeated(request: Request) -> None:
    """Raises ValidationFailedError for too many query parameters, and for those and headers that are given twice; lists
    may be given so. It comes before the token, so that its work must not grow faster than the request."""
    parameters = request.query_params.multi_items()
    if len(parameters) > MAX_PARAMETERS:
        problem = Problem("query", f"must have at most {MAX_PARAMETERS} parameters", len(parameters))
        raise ValidationFailedError(summary([problem]), [problem])
    lists = _list_parameters(request.scope["route"].dependant)
    given: dict[str, list[str]] = {}
    for name, value in parameters:
        if name not in lists:
            given.setdefault(name, []).append(value)
    sent = {name: request.headers.getlist(name) for name in GIVEN_ONCE}
    repeated = [(name, values) for name, values in (*given.items(), *sent.items()) if len(values) > 1]
    if repeated:
        problems = [_given_once(name, values) for name, values in repeated[:MAX_PROBLEMS]]
        raise ValidationFailedError(summary(problems, len(repeated) - len(problems)), problems)


def _given_once(name: str, values: list[str]) -> Problem:
    shown = None if name == AUTHORIZATION else shorten(", ".join(values))  # tokens are not repeated in responses
    return Problem(shorten(name), "must be given once", shown)


def _list_parameters(dependant: Dependant) -> set[str]:
    """The query parameters of a route that are lists."""
    models = (field.field_info.annotation for field in dependant.query_params)
    fields = (field for model in models for field in getattr(model, "model_fields", {}).items())
    return {name for name, field in fields if get_origin(field.annotation) is list}


async def _token(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    if credentials is None or not credentials.credentials:
        problem = Problem(AUTHORIZATION, "must hold a bearer token")
        raise UnauthorizedError(str(problem), [problem], {headers.AUTHENTICATE: "Bearer"})
    return credentials.credentials


async def _if_match(
    if_match: Annotated[
        str | None,
        WithJsonSchema({"type": "string", "maxLength": MAX_IF_MATCH_LENGTH, "pattern": etags.PATTERN}),
        Header(
            max_length=MAX_IF_MATCH_LENGTH,
            description="An ETag, several of them, or `*`. The experiment is changed only if its ETag is one of them.",
            examples=['"3"'],
        ),
    ] = None,
) -> IfMatch:
    return etags.parse(if_match)


CurrentContext = Annotated[AppContext, Depends(_context)]
Body = Annotated[bytes, Depends(_body)]
ContentType = Annotated[str, Depends(_content_type)]
Token = Annotated[str, Depends(_token)]
IdempotencyKey = Annotated[
    str | None,
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH, "pattern": PRINTABLE}),
    Header(
        alias=IDEMPOTENCY_KEY,
        min_length=1,
        max_length=MAX_KEY_LENGTH,
        pattern=PRINTABLE,
        description="A value of your choice in printable ASCII, new for each submission. If the same body is sent "
        "again under the same key within a day, no second experiment is created while the first one exists; another "
        "body is refused.",
        examples=["5f0c1b1e-2f0e-4a39-9a63-0a2a2b1c6d7e"],
    ),
]
IfMatchHeader = Annotated[IfMatch, Depends(_if_match)]
ExperimentId = Annotated[str, Path(description="Identifier of the experiment.", examples=["k3v9q2mz"])]
TrialNumber = Annotated[Integer, Path(ge=0, lt=MAX_NUMBER, description="Number of the trial, counted from 0.")]

#: Text that every database can store.
TEXT = r"^[^\x00]*$"
