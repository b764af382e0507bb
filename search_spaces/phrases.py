"""Phrases: numbers and names in sentences for a person. It must not know what is counted or named."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable

LISTED = 100  # names in one sentence; the others are counted
LISTED_CHARACTERS = 4000  # in one sentence: a reason is stored with the experiment
#: Characters that break a line, or reorder it.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def counted(number: float, one: str, many: str = "") -> str:
    """`1 trial`, `2 trials`; `many` is given where it is not `one` with an s."""
    amount = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{amount} {one if number == 1 else many or f'{one}s'}"


def rounded(number: float, digits: int = 3) -> str:
    """With so many significant digits; a larger number as a whole one, never with an exponent."""
    text = f"{number:.{digits}g}"
    return f"{number:.0f}" if "e+" in text else text


def size_text(size: float) -> str:
    """A number of bytes in the largest unit in which it is at least 1."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{rounded(size)} {unit}"
        size /= 1000
    return f"{rounded(size)} TB"


def listed(names: Iterable[str], most: int = LISTED) -> str:
    """The first names, at most `most`, and the number of the others."""
    all_names = list(names)
    some: list[str] = []
    length = 0
    for name in all_names[:most]:
        length += len(name)
        if some and length > LISTED_CHARACTERS:
            break
        some.append(name)
    more = f" and {len(all_names) - len(some)} more" if len(all_names) > len(some) else ""
    return ", ".join(some) + more


def abridged(text: str, most: int) -> str:
    """The beginning and the end of a text, `most` characters in all, and how many between them were left out."""
    left_out = len(text) - most
    if left_out <= 0:
        return text
    return f"{text[: most // 2]}\n... {left_out} characters were left out ...\n{text[most // 2 + left_out :]}"


def shown(name: str) -> str:
    """A name from a file system as text of one line: bytes that are not UTF-8 and control characters are written as
    \\xNN or \\uNNNN, and accents are composed."""
    text = unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8", "backslashreplace"))
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1] if found[0] > "\xff" else f"\\x{ord(found[0]):02x}", text)


def quoted(name: str) -> str:
    """A name or path, in quotation marks where white space begins or ends one of its parts and would not be seen."""
    return f"'{name}'" if any(part != part.strip() for part in name.split("/")) else name
