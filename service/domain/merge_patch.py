"""Merge patches: changes as RFC 7396 writes them, a part of the document with null for what is to go.

Owns their reading and their merging. It must not know what the document is.
"""

from __future__ import annotations

from typing import Any

from search_spaces.parsing import JSON_TYPES, read
from service.contract.errors import UnsupportedMediaTypeError

MEDIA_TYPE = "application/merge-patch+json"


def parse(body: bytes, content_type: str) -> dict[str, Any]:
    """The mapping that a body holds. Raises UnsupportedMediaTypeError, SpecError."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in {MEDIA_TYPE, *JSON_TYPES}:
        raise UnsupportedMediaTypeError(
            f"{MEDIA_TYPE} or application/json required, got {media_type[:100] or 'no content-type'}"
        )
    return read(body, "application/json")


def merge(target: Any, patch: Any) -> Any:
    """The patched document; `target` stays as it is.

    Stricter than the RFC in one thing: a null for a member that is not there is kept, so that the check of
    the result names a misspelled field instead of passing over it.
    """
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None and name in merged:
            del merged[name]
        else:
            merged[name] = merge(merged.get(name), value)
    return merged
