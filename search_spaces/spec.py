"""Spec: the base class of all parts of a spec, and the declaration of families of alternatives.

A family is a union of specs told apart by `kind`; the union itself is the registry. Here is how a
family is declared, listed and abbreviated. It must not know any family by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from search_spaces.domains import holds_only_integers, whole


class Spec(BaseModel):
    """Frozen; unknown fields are errors. Strings may be trimmed, numbers are never guessed from strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, ser_json_inf_nan="constants")

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, data: Any) -> Any:
        """Here, because a validator of a field would hide its limits from the JSON Schema. Domains do so themselves."""
        if not isinstance(data, dict) or not any(isinstance(data.get(name), float) for name in _integer_fields(cls)):
            return data
        return {name: whole(value) if name in _integer_fields(cls) else value for name, value in data.items()}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The field that tells members of a family apart has a default in Python; a document must say it.

        It has the same meaning in every member, so it is described here.
        """
        reference = handler(schema)
        whole = handler.resolve_ref_schema(reference)
        tags = [name for name in ("kind", "name") if "const" in whole["properties"].get(name, {})]
        for name in tags:
            whole["properties"][name].setdefault("description", "Name that selects this alternative.")
        if tags:
            whole["required"] = [*tags, *(name for name in whole.get("required", ()) if name not in tags)]
        return reference


@cache
def _integer_fields(model: type[Spec]) -> frozenset[str]:
    fields = model.model_fields.items()
    return frozenset(name for name, field in fields if holds_only_integers(field.annotation))


def field_error(field: str, rule: str) -> PydanticCustomError:
    """For validators of a whole block: `rule` is broken by one field of it, which the problem will name."""
    return PydanticCustomError("field_rule", "{field} {rule}", {"field": field, "rule": rule})


class NameShorthand:
    """Pydantic marker of a family told apart by the field `tag`: a bare name stands for the member with its defaults.

    Written before it is `Field(discriminator=tag)`. The JSON Schema lists the names of those that need nothing more.
    """

    def __init__(self, tag: str) -> None:
        self._tag = tag

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        family = handler(source)
        names = [
            cls.model_fields[self._tag].default
            for cls in members(source)
            if not any(field.is_required() for field in cls.model_fields.values())
        ]
        return core_schema.no_info_before_validator_function(
            self._expand,
            family,
            json_schema_input_schema=core_schema.union_schema([core_schema.literal_schema(names), family]),
        )

    def _expand(self, value: Any) -> Any:
        return {self._tag: value} if isinstance(value, str) else value


#: `normalization: batch`.
KindShorthand = NameShorthand("kind")

Discriminated = Field(discriminator="kind")


def members(family: Any) -> tuple[type[Spec], ...]:
    """The classes of a family, in the order of its union. A single class is a family of one."""
    if get_origin(family) is Annotated:
        return members(get_args(family)[0])
    if get_origin(family) is Union or isinstance(family, UnionType):
        return tuple(cls for arm in get_args(family) for cls in members(arm))
    return (family,) if isinstance(family, type) and issubclass(family, Spec) else ()


def family_of_package(package: str, base: type[Spec], tag: str = "kind") -> Any:
    """The family whose registry is a package: the subclasses of `base` that its modules define, told apart by the
    field `tag` and ordered by it.

    Raises TypeError for two members of one kind.
    """
    found: dict[str, type[Spec]] = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        for member in vars(importlib.import_module(module.name)).values():
            if not isinstance(member, type) or not issubclass(member, base) or member.__module__ != module.name:
                continue
            kind = member.model_fields[tag]
            if not kind.is_required() and found.setdefault(kind.default, member) is not member:
                raise TypeError(f"{package}: {tag} {kind.default!r} is declared twice")
    union = reduce(or_, (found[kind] for kind in sorted(found)))
    return Annotated[union, Field(discriminator=tag), NameShorthand(tag)]
