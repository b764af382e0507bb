"""Encoding: what a caller passes to the SDK, as the parts of a request.

Owns how specs, patches, ids and numbers are checked before they are sent. A value of a wrong type raises TypeError; a
value that cannot be right raises ValidationFailedError, as the service would. It must not know HTTP, nor any route.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from search_spaces.parsing import read_file
from search_spaces.problems import Problem, SpecError
from service.contract.errors import ValidationFailedError, summary

#: What a spec may be given as. Text is YAML, a path, or `preset:NAME`.
SpecInput = BaseModel | Mapping[str, Any] | str | PathLike[str]

JSON, YAML = "application/json", "application/yaml"
PRESET = "preset:"
#: What YAML or JSON text has and a path has not: nothing at all, a brace or a comment first, a colon before a space,
#: or several lines.
_DOCUMENT = re.compile(r"\s*(?:$|[{#])|.*(?:\n|\0|:\s|:$)", re.DOTALL)


def encode_spec(spec: SpecInput) -> tuple[bytes, str]:
    """The body of a spec and its media type.

    Raises TypeError, ValidationFailedError, and OSError where its file cannot be read.
    """
    if isinstance(spec, BaseModel | Mapping):
        return encode_json(spec, "spec"), JSON
    if isinstance(spec, str) and _DOCUMENT.match(spec):
        return spec.encode("utf-8", "surrogatepass"), YAML
    if not isinstance(spec, str | PathLike):
        raise TypeError(f"spec must be an ExperimentSpec, a mapping, text or a path (got {type(spec).__name__})")
    path = Path(spec)
    with path.open("rb") as file:
        try:
            return read_file(file), JSON if path.suffix == ".json" else YAML
        except SpecError as error:
            raise ValidationFailedError(summary(error.problems), error.problems) from None


def preset_name(spec: SpecInput) -> str | None:
    """The name in `preset:NAME`; None for other specs."""
    return spec.removeprefix(PRESET) if isinstance(spec, str) and re.fullmatch(rf"{PRESET}\S*", spec) else None


def encode_json(data: BaseModel | Mapping[str, Any], what: str) -> bytes:
    """A mapping as JSON; models in it are written out.

    Raises TypeError, and ValidationFailedError for what JSON cannot hold.
    """
    if isinstance(data, BaseModel):
        data = data.model_dump(mode="json")
    if not isinstance(data, Mapping):
        raise TypeError(f"{what} must be a mapping (got {type(data).__name__})")
    try:
        return json.dumps(dict(data), default=_plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise invalid(what, f"must hold JSON values only ({error})") from None


def path_part(value: str, what: str) -> str:
    """A name or id as a part of an address. Raises TypeError and ValidationFailedError."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string (got {type(value).__name__})")
    if not value:
        raise invalid(what, "must not be empty")
    # A part that is only dots would lead to another address.
    return quote(value.encode("utf-8", "replace"), safe="").replace(".", "%2E")


def whole_number(value: int, what: str, least: int = 0) -> int:
    """An index, a revision or a number of items. Raises TypeError and ValidationFailedError."""
    if isinstance(value, bool):
        raise TypeError(f"{what} must be a whole number (got {value})")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be a whole number (got {value!r})") from None
    if number < least:
        raise invalid(what, f"must be at least {least}", number)
    return number


def invalid(field: str, rule: str, value: Any = None) -> ValidationFailedError:
    problems = [Problem(field, rule, value)]
    return ValidationFailedError(summary(problems), problems)


def _plain(value: Any) -> Any:
    """JSON values for what the encoder does not know: parts of a spec, mappings of other types, and paths."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"got {type(value).__name__}")
