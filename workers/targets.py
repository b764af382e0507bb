"""Targets: classes that a spec names as data, in the form "module:name"."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def resolve_target(target: str) -> Any:
    """The object that "module:name" names. Raises LookupError if there is none."""
    module, separator, name = target.partition(":")
    if not separator:
        raise LookupError(f"a target must have the form module:name (got {target})")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"target {target} not found: {error}") from error
