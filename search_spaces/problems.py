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
_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False)


@dataclass(frozen=True)
class Problem:
    """One broken rule.

    `field` is the dotted path as written, `rule` says what the field must be, and `value` what it is instead, or None
    where nothing is there. Printed as `field: must be X (got Y)`.
    """

    field: str
    rule: str
    value: Any = None

    def __str__(self) -> str:
        return f"{self.field}: {self.rule}" + ("" if self.value is None else f" (got {_text(self.value)})")


class SpecError(ValueError):
    """A spec that cannot be used, with every problem found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most similar to `name`, if any is similar."""
    if len(name) > MAX_VALUE_LENGTH:  # longer than any known name
        return None
    known, name = list(known), name.lower()
    swapped = [other for other in known if sorted(other) == sorted(name)]
    found = swapped or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return found[0] if found else None


def unknown(name: str, known: Iterable[str]) -> str:
    """`must be one of sgd, adam, ...; did you mean 'adam'?`: the rule that an unknown name breaks."""
    known = list(known)
    guess = nearest(name, known)
    return f"must be one of {', '.join(known)}" + (f"; did you mean {guess!r}?" if guess else "")


def shorten(value: Any) -> Any:
    """`value` for a JSON answer: itself if it is small, otherwise the beginning of its text. No more is read."""
    cut = value[:MAX_VALUE_LENGTH] if isinstance(value, str) else value
    text = ""
    try:
        for part in _ENCODER.iterencode(cut):
            text += part
            if len(text) > MAX_VALUE_LENGTH:
                break
        text.encode()
    except (TypeError, ValueError, RecursionError):
        value = text = ascii(cut) if not isinstance(value, dict | list | tuple) else f"a {type(value).__name__}"
    if len(text) <= MAX_VALUE_LENGTH:
        return value
    return (value if isinstance(value, str) else text)[: MAX_VALUE_LENGTH - 3] + "..."


def _text(value: Any) -> str:
    if isinstance(value, str) and value.endswith("..."):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
