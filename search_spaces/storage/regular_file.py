"""Regular files: how files are opened where code that trains models may put links and named pipes.

Owns that no link is followed and that nothing blocks. It must not know what is in a file.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from search_spaces.storage.atomic import PRIVATE
from search_spaces.storage.base import MISPLACED_ERRNOS, NotAFileError

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def open_regular(root: Path, path: str | Path, flags: int, mode: int = PRIVATE) -> int:
    """Open a file below `root`, from folder to folder. Raises OSError; NotAFileError for a link, also `root`."""
    *folders, name = Path(path).relative_to(root).parts
    folder = -1
    try:
        folder = os.open(root, FOLDER)
        for part in folders:
            outer, folder = folder, os.open(part, FOLDER, dir_fd=folder)
            os.close(outer)
        file = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode, dir_fd=folder)
    except OSError as error:
        if error.errno in MISPLACED_ERRNOS:
            raise NotAFileError(error.errno, error.strerror, str(path)) from None
        error.filename = str(path)
        raise
    finally:
        if folder >= 0:
            os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise NotAFileError(errno.ENXIO, "must be a regular file", str(path))
    return file


def is_folder(path: Path) -> bool:
    """Whether it is a folder, and not a link to one."""
    return path.is_dir() and not path.is_symlink()


def is_regular(path: Path) -> bool:
    """Whether it is a file in a folder, both not links."""
    try:
        return is_folder(path.parent) and stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
