"""Problems: what is wrong with an input, in the words and paths of the person who wrote it.

Owns the vocabulary of problems: `Problem`, the error that carries them, and how values and names are printed. It must
not know the fields of a spec, nor pydantic.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

MAX_PROBLEMS = 50
MAX_VALUE_LENGTH = 120


@dataclass(frozen=True)
class Problem:
    """One broken rule. `field` is the dotted path as written, `value` what was found there (None for nothing)."""

    field: str
    rule: str
    value: Any = None

    def __str__(self) -> str:
        said = self.value is None or "got " in self.rule or self.rule.startswith("unknown")
        got = "" if said else f" (got {_text(self.value)})"
        return f"{self.field}: {self.rule}{got}"


class SpecError(ValueError):
    """A spec that cannot be used, with every problem found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, if any is."""
    known, name = list(known), name.lower()
    swapped = [other for other in known if sorted(other) == sorted(name)]
    found = swapped or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return found[0] if found else None


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """`unknown kind 'adma', did you mean 'adam'? one of sgd, adam, ... required`."""
    known = list(known)
    guess = nearest(name, known)
    hint = f", did you mean {guess!r}?" if guess else ";"
    return f"unknown {what} {shorten(name)!r}{hint} one of {', '.join(known)} required"


def shorten(value: Any) -> Any:
    """`value` fit for a JSON answer: itself where it is small, otherwise the beginning of its text."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError):
        value = text = ascii(value) if not isinstance(value, dict | list | tuple) else f"a {type(value).__name__}"
    if len(text) <= MAX_VALUE_LENGTH:
        return value
    return (value if isinstance(value, str) else text)[: MAX_VALUE_LENGTH - 3] + "..."


def _text(value: Any) -> str:
    if isinstance(value, str) and value.endswith("..."):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
