"""Whole: files that appear whole or not at all, also after a power failure.

Owns the way there: a file beside it, stored and then renamed. It must not know what is written.
"""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, content: bytes | memoryview) -> None:
    """Write a file, or write it anew, in one step. Raises OSError, and then leaves what was there as it was."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
