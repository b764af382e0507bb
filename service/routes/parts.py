"""What routes have in common: the service's context, the body as bytes, and who sent it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from service.context import Context
from service.errors import Unauthorized

_bearer = HTTPBearer(auto_error=False, description="the token in the driver's launch file")


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


async def _body(request: Request) -> bytes:
    return await request.body()


def _token(credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    if credentials is None or not credentials.credentials:
        raise Unauthorized(
            "an Authorization header with a bearer token required", headers={"WWW-Authenticate": "Bearer"}
        )
    return credentials.credentials


Service = Annotated[Context, Depends(_context)]
Body = Annotated[bytes, Depends(_body)]
Token = Annotated[str, Depends(_token)]


class Paging(BaseModel):
    """Query parameters of a list. Unknown parameters are errors, so that no misspelled filter goes unnoticed."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=1000, description="items of a page")
    cursor: str | None = Field(None, max_length=1000, description="next_cursor of the page before")


#: Text that every database takes.
TEXT = r"^[^\x00]*$"
