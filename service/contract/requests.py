"""Requests: names that are part of requests, for the service and its clients."""

from __future__ import annotations

#: The header whose value identifies one submission, also when it is sent again.
IDEMPOTENCY_KEY = "Idempotency-Key"
#: The media type of a patch (RFC 7396).
MERGE_PATCH = "application/merge-patch+json"
