"""Errors: what can go wrong between a person and the service, each with its status and its code.

    RungError
    ├── BadRequest            400  the request cannot be read
    ├── Unauthorized          401  no token, or not one of ours
    ├── Forbidden             403  a token that does not open this door, or a page of another site
    ├── NotFound              404  nothing of this name or id
    ├── NotAllowed            405  a method that the address does not know
    ├── Conflict              409  the thing is in another state
    ├── PreconditionFailed    412  the thing was changed meanwhile
    ├── TooLarge              413  the body passes the limit
    ├── WrongMediaType        415  a body that is neither JSON nor YAML
    ├── Invalid               422  readable, but against a rule; `problems` says which
    ├── Internal              500  our own fault
    ├── Unavailable           503  the database, Ray or MLflow does not answer
    └── DiskFull              507  the database has no room for more

On the wire each is an `application/problem+json` document (RFC 9457) whose `type` is
`urn:rung:problem:<code>`; `from_document` makes the same exception of it again on the client's side.
It must not import FastAPI: the command line uses it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from search_spaces.problems import Problem, shorten

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:rung:problem:"


class FieldError(BaseModel):
    """One broken rule: where, which, and the value that broke it."""

    field: str = Field(description="dotted path in the body, or the parameter's name; empty for the whole")
    rule: str
    value: Any = None


class ProblemDocument(BaseModel):
    """RFC 9457 with one extension, `errors`."""

    type: str = Field(examples=["urn:rung:problem:invalid"])
    title: str = Field(examples=["A rule is broken"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["resources.gpus_per_trial: at most 2 required, got 4"])
    errors: list[FieldError] = Field(default_factory=list)


class RungError(Exception):
    """Base of all. `detail` is one sentence for a person; `problems` name the fields."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Something went wrong"

    def __init__(self, detail: str, problems: Sequence[Problem] = (), headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problems = tuple(problems)
        self.headers = headers or {}

    def __str__(self) -> str:
        """Each problem on a line of its own, after the detail where that says more; otherwise the detail."""
        lines = [str(problem) if problem.field else problem.rule for problem in self.problems]
        says_more = not lines or self.detail != summary(self.problems)
        return "\n".join([self.detail, *lines] if says_more else lines)

    def document(self) -> dict[str, Any]:
        return ProblemDocument(
            type=PREFIX + self.code,
            title=self.title,
            status=self.status,
            detail=self.detail,
            errors=[FieldError(field=p.field, rule=p.rule, value=shorten(p.value)) for p in self.problems],
        ).model_dump(mode="json")


class BadRequestError(RungError):
    code, status, title = "bad-request", 400, "The request cannot be read"


class UnauthorizedError(RungError):
    code, status, title = "unauthorized", 401, "A token is needed"


class ForbiddenError(RungError):
    code, status, title = "forbidden", 403, "Not for you"


class NotFoundError(RungError):
    code, status, title = "not-found", 404, "There is no such thing"


class MethodNotAllowedError(RungError):
    code, status, title = "not-allowed", 405, "Not with this method"


class ConflictError(RungError):
    code, status, title = "conflict", 409, "Not in this state"


class PreconditionFailedError(RungError):
    code, status, title = "precondition-failed", 412, "It was changed meanwhile"


class ContentTooLargeError(RungError):
    code, status, title = "too-large", 413, "The body is too large"


class UnsupportedMediaTypeError(RungError):
    code, status, title = "media-type", 415, "Neither JSON nor YAML"


class ValidationFailedError(RungError):
    code, status, title = "invalid", 422, "A rule is broken"


class InternalError(RungError):
    code, status, title = "internal", 500, "The service failed"


class UnavailableError(RungError):
    code, status, title = "unavailable", 503, "Something the answer needs is away"


class DiskFullError(RungError):
    code, status, title = "disk-full", 507, "The disk is full"


CLASSES: tuple[type[RungError], ...] = (
    BadRequestError,
    UnauthorizedError,
    ForbiddenError,
    NotFoundError,
    MethodNotAllowedError,
    ConflictError,
    PreconditionFailedError,
    ContentTooLargeError,
    UnsupportedMediaTypeError,
    ValidationFailedError,
    InternalError,
    UnavailableError,
    DiskFullError,
)


def of_status(status: int) -> type[RungError]:
    """The class for an HTTP status; unknown client errors read as bad requests, the rest as our own fault."""
    exact = next((cls for cls in CLASSES if cls.status == status), None)
    return exact or (BadRequestError if 400 <= status < 500 else InternalError)


def from_document(document: dict[str, Any], status: int) -> RungError:
    """The exception that a problem document stands for."""
    code = str(document.get("type", "")).removeprefix(PREFIX)
    cls = next((cls for cls in CLASSES if cls.code == code), None) or of_status(status)
    problems = [
        Problem(str(error.get("field", "")), str(error.get("rule", "")), error.get("value"))
        for error in document.get("errors") or ()
        if isinstance(error, dict)
    ]
    return cls(str(document.get("detail", "")), problems)


def summary(problems: Sequence[Problem]) -> str:
    """One sentence of the first problem, and how many more there are."""
    if not problems:
        return "the request breaks a rule"
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{first if first.field else first.rule}{more}"
