"""Trees: a folder copied as it is, with files of several names and with links, which are not followed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tree:
    """How much a folder has. A file with several names is counted with each of them."""

    files: int
    size_bytes: int


def copy(source: Path, target: Path) -> Tree:
    """Copy a folder to a new one. Raises OSError."""
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
        elif path.is_file():
            first = known.setdefault((status.st_dev, status.st_ino), to)
            if first is to:
                shutil.copy2(path, to)
            else:
                os.link(first, to)
    return measure(target)


def measure(folder: Path) -> Tree:
    """Raises OSError."""
    sizes = [path.lstat().st_size for path in _walk(folder) if path.is_file() and not path.is_symlink()]
    return Tree(len(sizes), sum(sizes))


def is_empty(folder: Path) -> bool:
    """Whether nothing is there."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder, each folder before what is in it."""
    for at, folders, files in os.walk(folder, onerror=_fail):
        yield from (Path(at, name) for name in (*folders, *files))


def _fail(error: OSError) -> None:
    raise error
