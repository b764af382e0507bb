"""Tracebacks: the one line of a text that names an error, in the text of an exception or at the end of a log.

Owns how such a text is read. It must not know whose text it is.
"""

from __future__ import annotations

import re

#: A line of a log as drivers write it.
RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d+ (?P<level>[A-Z]+) \S+ (?P<message>.*)")
ERRORS = frozenset({"ERROR", "CRITICAL"})
#: What Python prints when the interpreter itself is killed, with the stacks of all threads after it.
FATAL = "Fatal Python error: "
#: What begins a traceback, of Python or of Ray, and what every frame of one begins with.
HEADER, FRAME = re.compile(r"(.* in its creation task, )?(\x1b\[36m)?(Traceback|ray::)"), 'File "'


def own_line(text: str) -> str:
    """The line in which an exception names itself: that after the last traceback, or the first of any other text.

    What follows it is detail or advice. A line that ends with a colon is completed by the next one.
    """
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if _is_frame(line)]
    left = lines[frames[-1] + 1 :] if frames else lines
    while frames and left and left[0][0].isspace():
        left = left[1:]
    left = left or lines[-1:]
    if len(left) > 1 and left[0].endswith(":"):
        return f"{left[0].strip()} {left[1].strip()}"
    return left[0].strip() if left else ""


def last_error(log: str) -> str:
    """The error with which a log ends; empty if it ends with something else, which need not be the cause of anything.

    A last line that is no record of the log is what a process printed before it died.
    """
    lines = [line for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith(FATAL):
            return line
        if RECORD.match(line):
            break
    record = next((number for number in reversed(range(len(lines))) if RECORD.match(lines[number])), None)
    after = lines if record is None else lines[record + 1 :]
    if any(_is_frame(line) for line in after):
        return own_line("\n".join(after))
    if after:
        return after[-1].strip()
    found = RECORD.match(lines[-1]) if lines else None
    return found["message"].strip() if found and found["level"] in ERRORS else ""


def _is_frame(line: str) -> bool:
    return bool(HEADER.match(line)) or (line[0].isspace() and line.lstrip().startswith(FRAME))
