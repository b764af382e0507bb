"""Dependencies: what routes have in common about a request: the service's context, its body, its token, its headers.

The experiment that a request is about comes from `access`. Every dependency is a coroutine that waits for nothing:
FastAPI would run a plain function in a thread of people's pool, which heartbeats must not wait for.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import WithJsonSchema

from search_spaces.problems import Problem
from search_spaces.protocol import MAX_NUMBER
from service.api import etags, headers
from service.api.etags import IfMatch
from service.context import AppContext
from service.contract.errors import UnauthorizedError
from service.contract.requests import IDEMPOTENCY_KEY

MAX_IF_MATCH_LENGTH = 1000
#: As long as the column that holds it.
MAX_KEY_LENGTH = 255
PRINTABLE = r"^[ -~]+$"

_bearer = HTTPBearer(auto_error=False, description="For drivers only: the attempt's token. Other routes need no token.")


async def _context(request: Request) -> AppContext:
    context: AppContext = request.app.state.context
    return context


async def _body(request: Request) -> bytes:
    return await request.body()


async def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "")


async def _token(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    if credentials is None or not credentials.credentials:
        problem = Problem("Authorization", "must hold a bearer token")
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
        "again under the same key within a day, no second experiment is created; another body is refused.",
        examples=["5f0c1b1e-2f0e-4a39-9a63-0a2a2b1c6d7e"],
    ),
]
IfMatchHeader = Annotated[IfMatch, Depends(_if_match)]
ExperimentId = Annotated[str, Path(description="Identifier of the experiment.", examples=["k3v9q2mz"])]
TrialNumber = Annotated[int, Path(ge=0, lt=MAX_NUMBER, description="Number of the trial, counted from 0.")]

#: Text that every database can store.
TEXT = r"^[^\x00]*$"
