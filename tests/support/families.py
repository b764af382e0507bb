"""Families: the members of a family of specs, by kind."""

from __future__ import annotations

from typing import Any

from search_spaces.spec import Spec, members


def kinds(family: Any) -> dict[str, type[Spec]]:
    """kind -> class of a family."""
    return {cls.model_fields["kind"].default: cls for cls in members(family)}
