"""Text: the words and figures that everything shown is made of, its tables and its labeled lines."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.sampling import NOT_APPLICABLE

#: Significant digits of a value: more would be noise.
DIGITS = 4


@dataclass(frozen=True)
class Table:
    """Headings and rows of text. Columns in `numeric` hold numbers, those in `states` hold states."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    states: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Fact:
    """One labeled line about an experiment or a trial."""

    label: str
    text: str


def figure(value: object) -> str:
    """A number or a name, or `-` if there is no value."""
    if value is None or value == NOT_APPLICABLE:
        return "-"
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Seconds in the largest unit in which there are at least two."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def one_line(text: str) -> str:
    """Text of a library without line breaks and control characters."""
    return " ".join("".join(character if character.isprintable() else " " for character in text).split())
