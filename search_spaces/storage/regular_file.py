"""Regular files: how files are opened where code that trains models may put links and named pipes.

Owns that no link is followed and that nothing blocks. It must not know what is in a file.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from search_spaces.storage.atomic import PRIVATE
from search_spaces.storage.base import MISPLACED_ERRNOS, NotAFileError

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def open_folder(root: Path, path: Path, *, create: bool = False) -> int:
    """Open `root` or a folder below it, from folder to folder. The caller closes it.

    With `create`, folders below `root` are created. Raises OSError; NotAFileError for a link, also `root`.
    """
    with _naming(path):
        return _descend(root, path, create)


def open_regular(root: Path, path: str | Path, flags: int, mode: int = PRIVATE) -> int:
    """Open a file below `root`, from folder to folder. Raises OSError; NotAFileError for a link, also `root`."""
    with folder_of(root, Path(path)) as folder:
        file = os.open(Path(path).name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise NotAFileError(errno.ENXIO, "must be a regular file", str(path))
    return file


@contextmanager
def folder_of(root: Path, path: Path, *, create: bool = False) -> Iterator[int]:
    """In the block, the folder of the file `path` is open. Errors name the file; else as `open_folder`."""
    with _naming(path):
        folder = _descend(root, path.parent, create)
        try:
            yield folder
        finally:
            os.close(folder)


def _descend(root: Path, path: Path, create: bool) -> int:
    try:
        folder = os.open(root, FOLDER)
    except OSError as error:
        error.filename = None  # it becomes that of the file
        raise
    try:
        for part in path.relative_to(root).parts:
            outer, folder = folder, _open_inner(folder, part, create)
            os.close(outer)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _open_inner(folder: int, name: str, create: bool) -> int:
    try:
        return os.open(name, FOLDER, dir_fd=folder)
    except FileNotFoundError:
        if not create:
            raise
    with suppress(FileExistsError):  # of two processes, the other was first
        os.mkdir(name, dir_fd=folder)
    return os.open(name, FOLDER, dir_fd=folder)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors have the whole path, and those that say that something else is in its place are NotAFileErrors."""
    try:
        yield
    except NotAFileError:
        raise
    except OSError as error:
        if error.errno in MISPLACED_ERRNOS:
            raise NotAFileError(error.errno, error.strerror, str(path)) from None
        if not os.path.isabs(str(error.filename or "")):
            error.filename = str(path)
        raise


def is_folder(path: Path) -> bool:
    """Whether it is a folder, and not a link to one."""
    return path.is_dir() and not path.is_symlink()


def is_regular(path: Path) -> bool:
    """Whether it is a file in a folder, both not links."""
    try:
        return is_folder(path.parent) and stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False
