"""Integer: a whole number in a path or a query, written in digits. Pydantic also takes `1_0` and `1.0`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticKnownError

_DIGITS = re.compile(r"\s*[+-]?[0-9]+\s*")


def _check_digits(given: object) -> object:
    if isinstance(given, str) and not _DIGITS.fullmatch(given):
        raise PydanticKnownError("int_parsing")
    return given


Integer = Annotated[int, BeforeValidator(_check_digits)]
