"""Atomic file replacement: a file has its old content or its new content, also after a power failure.

Owns the way there: a temporary file beside it, flushed to disk and then renamed. It must not know what is written.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

#: Permissions of a file, less the umask.
PRIVATE, SHARED = 0o600, 0o666


def atomic_write(
    path: Path, content: bytes | memoryview, mode: int = SHARED, *, durable: bool = True, folder: int | None = None
) -> None:
    """Create or replace a file in one step, with these permissions less the umask. A link is replaced, not followed.

    A file that is not `durable` is not flushed to disk: after a power failure it may be empty. `folder` is a descriptor
    of the file's folder, where that was opened already: of `path` only the name is then used.
    Raises OSError, and then leaves the previous content as it was.
    """
    target = str(path) if folder is None else path.name
    part, flags = f"{target}.{os.getpid()}.part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with open(os.open(part, flags, mode, dir_fd=folder), "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(part, target, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=folder)
