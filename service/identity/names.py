"""Names: texts of people, teams and tokens that others read on one line. Pure.

Line feeds would forge rows of tables, and characters that set the direction of writing change what a name looks like.
"""

from __future__ import annotations

import re

#: Control characters, separators of lines, and characters that set the direction of writing, for a regular expression.
CONTROLS = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
PATTERN = rf"^[^{CONTROLS}]*$"
RULE = "must have no line feeds or other control characters, and none that set the direction of writing"


def check_name(text: str) -> str:
    """The text. Raises ValueError for one with such characters."""
    if re.search(f"[{CONTROLS}]", text):
        raise ValueError(RULE)
    return text


def clean_name(text: str, characters: int) -> str:
    """What somebody else named, without such characters, and cut to a length."""
    return re.sub(f"[{CONTROLS}]+", " ", text).strip()[:characters]
