"""Work counted in executed lines, which are the same on every machine and under every load."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any


def executed_lines(work: Callable[[], object], *packages: ModuleType) -> int:
    """How many lines of the packages are executed by `work`, those in loops each time."""
    folders = tuple(str(Path(package.__path__[0])) for package in packages)
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(folders):
            return None
        lines += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines
