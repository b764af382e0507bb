"""Trees: a folder copied as it is, with files of several names and with links, which are not followed.

Of permissions, those of other users to write and the set-user-ID and set-group-ID of files are left out: who restores
may be somebody else than who wrote.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER_MODE, FILE_MODE = 0o2775, 0o775  # what is kept of permissions


@dataclass(frozen=True)
class Tree:
    """How much a folder has. A file with several names is counted with each of them."""

    files: int
    size_bytes: int


def copy(source: Path, target: Path) -> None:
    """Copy a folder to a new one. Raises OSError, also for a link in place of the folder."""
    if source.is_symlink():
        raise NotADirectoryError(f"{source} must be a folder (got a link)")
    known: dict[tuple[int, int], Path] = {}
    target.mkdir(parents=True)
    for path in _walk(source):
        to = target / path.relative_to(source)
        status = path.lstat()
        if path.is_symlink():
            to.symlink_to(os.readlink(path))
        elif path.is_dir():
            to.mkdir()
            shutil.copystat(path, to)
            to.chmod(to.stat().st_mode & FOLDER_MODE)
        elif path.is_file():
            first = known.setdefault((status.st_dev, status.st_ino), to)
            if first is to:
                shutil.copy2(path, to)
                to.chmod(to.stat().st_mode & FILE_MODE)
            else:
                os.link(first, to)


def measure(folder: Path) -> Tree:
    """Raises OSError."""
    sizes = [path.lstat().st_size for path in _files(folder)]
    return Tree(len(sizes), sum(sizes))


def digest(folder: Path) -> str:
    """SHA-256 of the names and the contents of all files, in hexadecimal. Raises OSError."""
    found = hashlib.sha256()
    for path in sorted(_files(folder), key=os.fsencode):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        name = os.fsencode(path.relative_to(folder))
        found.update(len(name).to_bytes(8, "big") + name + content)
    return found.hexdigest()


def is_empty(folder: Path) -> bool:
    """Whether nothing is there."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _files(folder: Path) -> list[Path]:
    return [path for path in _walk(folder) if path.is_file() and not path.is_symlink()]


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder, each folder before what is in it."""
    for at, folders, files in os.walk(folder, onerror=_fail):
        yield from (Path(at, name) for name in (*folders, *files))


def _fail(error: OSError) -> None:
    raise error
