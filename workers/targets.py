"""Targets: finds the classes that specs name as text, in the form "module:name"."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def resolve_target(target: str) -> Any:
    """The object that "module:name" stands for. Raises LookupError if it does not exist."""
    module, separator, name = target.partition(":")
    if not separator:
        raise LookupError(f"a target must have the form module:name (got {target})")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"target {target} does not exist: {error}") from error
