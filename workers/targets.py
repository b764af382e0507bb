"""Targets: finds the classes that specs name as text, in the form "module:name"."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class ImportTargetError(LookupError):
    """A class or plugin that the spec names cannot be imported. Every trial that needs it fails until it can be."""


def resolve_target(target: str) -> Any:
    """The object that "module:name" stands for. Raises ImportTargetError if it does not exist."""
    module, separator, name = target.partition(":")
    if not separator:
        raise ImportTargetError(f"a target must have the form module:name (got {target})")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ImportTargetError(f"target {target} does not exist: {error}") from error
