"""Merge patches (RFC 7396): a partial document, with null for each member to remove.

Owns their parsing and merging. It must not know what the document is.
"""

from __future__ import annotations

from typing import Any

from search_spaces.parsing import JSON_TYPES, read
from search_spaces.problems import Problem
from service.contract.errors import UnsupportedMediaTypeError
from service.contract.requests import MERGE_PATCH


def parse(body: bytes, content_type: str) -> dict[str, Any]:
    """The mapping that a body holds. Raises UnsupportedMediaTypeError, SpecError."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in {MERGE_PATCH, *JSON_TYPES}:
        problem = Problem("Content-Type", f"must be {MERGE_PATCH} or application/json", media_type[:100] or "none")
        raise UnsupportedMediaTypeError(str(problem), [problem])
    return read(body, "application/json")


def merge(target: Any, patch: Any) -> Any:
    """The patched document; `target` is not changed.

    Stricter than the RFC in one point: a null for an absent member is kept, so that validation of the result reports a
    misspelled field instead of ignoring it.
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
