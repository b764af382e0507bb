"""Printable: texts from a service, without what a terminal would obey.

Reasons, labels and logs may hold anything that a plugin or another person wrote: escape sequences that move the
cursor, set the title or hide lines, and characters that reverse the order of what follows. Every text that a command
prints goes through `printable`, in `echo` or in the console. It must not know the commands.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import typer

#: Whole escape sequences: with parameters (CSI), with a text up to its end (OSC and others), or of two characters. A
#: text ends within its line and before the next sequence: no line is lost, and no part of a log is searched twice.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[P\]X^_]|[\x90\x98\x9d-\x9f])[^\n\x07\x1b\x90\x98\x9c-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)
#: What remains of others: control characters, and those that set the direction of writing. Not tab and newline.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text without control characters; a carriage return begins a new line."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub("", _SEQUENCES.sub("", lines))


def one_line(text: str) -> str:
    """A text that is part of a line, such as a cell of a table: it must not look like further lines."""
    return re.sub(r"[\t\n]+", " ", printable(text))


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text."""
    typer.echo(printable(text), err=err, nl=nl)


def dump_json(data: Any, indent: int | None = None) -> str:
    """Data as JSON whose text has no control characters, and none that standard output cannot write: JSON writes those
    as escapes, so that nothing is lost."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(data, indent=indent)
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
