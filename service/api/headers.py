"""Headers: those that responses carry, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Any

ETAG = "ETag"
LOCATION = "Location"
REPLAYED = "Idempotent-Replayed"
RETRY_AFTER = "Retry-After"
ALLOW = "Allow"
AUTHENTICATE = "WWW-Authenticate"
REQUEST_ID = "X-Request-Id"
#: In the state of a request (`request.state`): its id.
REQUEST_STATE = "request_id"

#: Description and example of each.
HEADERS: dict[str, tuple[str, str]] = {
    ETAG: ("Revision of the experiment, in double quotes. Send it as `If-Match` to change that revision only.", '"3"'),
    LOCATION: ("Path of the new experiment.", "/api/v1/experiments/k3v9q2mz"),
    REPLAYED: ("`true` when an earlier request with the same `Idempotency-Key` created the experiment.", "true"),
    RETRY_AFTER: ("Seconds to wait before sending the request again; absent where waiting may not help.", "2"),
    ALLOW: ("Every method that the path supports.", "GET, HEAD, OPTIONS, POST"),
    AUTHENTICATE: ("The authentication scheme that the path requires.", "Bearer"),
    REQUEST_ID: (
        "Identifies the request in the log and the audit log of the service; the one that the request had, if any.",
        "3f1c9a7be0d24c58",
    ),
}


def described(*names: str) -> dict[str, Any]:
    """The `headers` of a documented response."""
    return {
        name: {"description": HEADERS[name][0], "schema": {"type": "string"}, "example": HEADERS[name][1]}
        for name in names
    }


def success(description: str, *names: str) -> dict[str, Any]:
    """A documented response that is no error, with its headers."""
    return {"description": description, "headers": described(*names)} if names else {"description": description}
