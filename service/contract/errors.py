"""Errors: every way in which the service refuses or fails a request, each with its status and its code.

    RungError
    ├── BadRequestError            400  the request cannot be parsed, or its Host is unknown
    ├── UnauthorizedError          401  the request has no bearer token
    ├── ForbiddenError             403  the token is not the right one, or the page belongs to another site
    ├── NotFoundError              404  nothing has this name, id or address
    ├── MethodNotAllowedError      405  the address does not support this method
    ├── RequestTimeoutError        408  the request's body did not arrive in time
    ├── ConflictError              409  the current state does not allow the request
    ├── PreconditionFailedError    412  the experiment is not at the revision that If-Match gives
    ├── ContentTooLargeError       413  the body exceeds the limit
    ├── UnsupportedMediaTypeError  415  the route does not read this content type
    ├── ValidationFailedError      422  the request can be parsed but breaks rules; `problems` lists them
    ├── TooManyRequestsError       429  this client has asked too often; `Retry-After` says when to ask again
    ├── InternalError              500  a defect of the service
    ├── UnavailableError           503  the database, Ray or MLflow does not answer, or the service is busy
    └── DiskFullError              507  the database has no room

In a response each is an `application/problem+json` document (RFC 9457) whose `type` is
`urn:rung:problem:<code>`; `from_document` turns it back into the same exception on the client's side.
This module must not import FastAPI, because the command line uses it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, Field

from search_spaces.problems import Problem, shorten

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:rung:problem:"
#: Ends what everybody may know of an outage: errors of other systems name hosts, paths and queries, and are logged.
SEE_LOG = "the log of the service says why"


class FieldError(BaseModel):
    """One broken rule: the field, the rule, and the value that breaks it."""

    field: str = Field(
        description="Dotted path in the body, or the name of the parameter or header; `method`, `path` and `query` "
        "of the request; empty for the body as a whole.",
        examples=["resources.gpus_per_trial"],
    )
    rule: str = Field(description="What the value must be.", examples=["must be at most 2"])
    value: Any = Field(None, description="The value that was sent, shortened where it is long.", examples=[4])


class ProblemDocument(BaseModel):
    """An error as RFC 9457 defines it, with one extension, `errors`."""

    type: str = Field(description="Stable identifier of the kind of error.", examples=["urn:rung:problem:invalid"])
    title: str = Field(description="Name of the kind of error.", examples=["Validation failed"])
    status: int = Field(description="HTTP status code.", examples=[422])
    detail: str = Field(
        description="What is wrong with this request, as one sentence.",
        examples=["resources.gpus_per_trial: must be at most 2 (got 4)"],
    )
    errors: list[FieldError] = Field(default_factory=list, description="Every broken rule that the service can name.")


class RungError(Exception):
    """Base of all. `detail` is one sentence for a person; `problems` list the fields and rules."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Error"

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
    """The request cannot be read."""

    code, status, title = "bad-request", 400, "Bad request"


class UnauthorizedError(RungError):
    """No token was sent, or one that is not valid."""

    code, status, title = "unauthorized", 401, "Authentication required"


class ForbiddenError(RungError):
    """The token does not permit the request, or a page of another site sent it."""

    code, status, title = "forbidden", 403, "Forbidden"


class NotFoundError(RungError):
    """Nothing has this name or id."""

    code, status, title = "not-found", 404, "Not found"

    def __str__(self) -> str:
        """Only the sentence: the problem, which names the parameter for programs, says the same."""
        return self.detail


class MethodNotAllowedError(RungError):
    """The path does not support this method."""

    code, status, title = "not-allowed", 405, "Method not allowed"


class RequestTimeoutError(RungError):
    """The body did not arrive in time."""

    code, status, title = "timeout", 408, "Request timeout"


class ConflictError(RungError):
    """The state of the experiment or trial does not permit the action."""

    code, status, title = "conflict", 409, "Conflict with the current state"


class PreconditionFailedError(RungError):
    """The experiment was changed since the revision that the request states."""

    code, status, title = "precondition-failed", 412, "Precondition failed"


class ContentTooLargeError(RungError):
    """The body exceeds the limit."""

    code, status, title = "too-large", 413, "Request body too large"


class UnsupportedMediaTypeError(RungError):
    """The body is neither JSON nor YAML."""

    code, status, title = "media-type", 415, "Unsupported media type"


class ValidationFailedError(RungError):
    """The request is readable and breaks rules; `problems` has every one."""

    code, status, title = "invalid", 422, "Validation failed"


class TooManyRequestsError(RungError):
    """The client has asked too often."""

    code, status, title = "too-many-requests", 429, "Too many requests"


class InternalError(RungError):
    """The service failed; its log has the details."""

    code, status, title = "internal", 500, "Internal error"


class UnavailableError(RungError):
    """The database, Ray or MLflow does not answer, or the service is busy."""

    code, status, title = "unavailable", 503, "A required service is unavailable"

    @classmethod
    def busy(cls, detail: str, retry_after_s: int) -> UnavailableError:
        """The refusal of what succeeds once others have been answered."""
        return cls(detail, headers={"Retry-After": str(retry_after_s)})


class DiskFullError(RungError):
    """The database has no disk space left."""

    code, status, title = "disk-full", 507, "Disk full"


CLASSES: tuple[type[RungError], ...] = (
    BadRequestError,
    UnauthorizedError,
    ForbiddenError,
    NotFoundError,
    MethodNotAllowedError,
    RequestTimeoutError,
    ConflictError,
    PreconditionFailedError,
    ContentTooLargeError,
    UnsupportedMediaTypeError,
    ValidationFailedError,
    TooManyRequestsError,
    InternalError,
    UnavailableError,
    DiskFullError,
)


def of_status(status: int) -> type[RungError]:
    """The class for an HTTP status: BadRequestError for an unknown 4xx, InternalError for any other unknown status."""
    exact = next((cls for cls in CLASSES if cls.status == status), None)
    return exact or (BadRequestError if 400 <= status < 500 else InternalError)


def from_document(document: dict[str, Any], status: int) -> RungError:
    """The exception that a problem document describes; `status` decides where the document names no known kind."""
    code = str(document.get("type", "")).removeprefix(PREFIX)
    cls = next((cls for cls in CLASSES if cls.code == code), None) or of_status(status)
    problems = [
        Problem(str(error.get("field", "")), str(error.get("rule", "")), error.get("value"))
        for error in document.get("errors") or ()
        if isinstance(error, dict)
    ]
    return cls(str(document.get("detail", "")), problems)


def summary(problems: Sequence[Problem], unlisted: int = 0) -> str:
    """The first problem as one sentence, and the number of further ones, with those that are not in the list."""
    if not problems:
        return "the request is invalid"
    first, further = problems[0], len(problems) - 1 + unlisted
    more = f" (and {further} more)" if further else ""
    return f"{first if first.field else first.rule}{more}"
