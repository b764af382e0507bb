"""Spec: the base of everything a person may ask for, and what the families of alternatives share.

A family is a union of specs told apart by `kind`; the union itself is the registry. Here is how a
family is declared, listed and abbreviated. It must not know any family by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Spec(BaseModel):
    """Frozen; unknown fields are errors. Strings may be trimmed, numbers are never guessed from strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, ser_json_inf_nan="constants")


def _expand(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


#: Lets a bare name stand for a family member with all its defaults: `normalization: batch`.
ByName = BeforeValidator(_expand)

Discriminated = Field(discriminator="kind")


def members(family: Any) -> tuple[type[Spec], ...]:
    """The classes of a family, in the order of its union. A class alone is a family of one."""
    if get_origin(family) is Annotated:
        return members(get_args(family)[0])
    if get_origin(family) is Union or type(family).__name__ == "UnionType":
        return tuple(cls for arm in get_args(family) for cls in members(arm))
    return (family,) if isinstance(family, type) and issubclass(family, Spec) else ()


def kinds(family: Any) -> dict[str, type[Spec]]:
    """kind -> class of a family."""
    return {cls.model_fields["kind"].default: cls for cls in members(family)}
