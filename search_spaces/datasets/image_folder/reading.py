"""Reading: many image files in order, by a few threads. It must not know what the classes of the images are."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from search_spaces.datasets.base import DataUnavailableError
from search_spaces.datasets.image_folder.listing import Status, place, status_of
from search_spaces.datasets.image_folder.pictures import Picture, PictureError, content, read

READ_AHEAD = 256  # decoded images held at a time


@dataclass(frozen=True)
class Damaged:
    """A file that cannot be read as an image."""

    reason: str


def read_pictures(
    paths: Sequence[Path], description: Mapping[str, Any], expected: Callable[[Path], Status]
) -> Iterator[Picture | Damaged]:
    """The images of the files in order, read by a few threads, READ_AHEAD at a time; of large ones, which take much
    memory, all processes of this user on this machine decode one at a time.

    Raises DataUnavailableError where the operating system cannot read a file, or where the file that is read does not
    have its `expected` status: neither says anything of the image.
    """
    one = partial(_read, description=description, expected=expected, large=_OneAtATime())
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), READ_AHEAD):
            yield from pool.map(one, paths[start : start + READ_AHEAD])


class _OneAtATime(AbstractContextManager[None]):
    """In the block, no other thread or process is in such a block. Without a folder for temporary files, no thread."""

    def __init__(self) -> None:
        self._threads = threading.Lock()
        self._file = -1

    def __enter__(self) -> None:
        path = Path(tempfile.gettempdir(), f"rung-{os.getuid()}-large-image.lock")
        self._threads.acquire()
        with suppress(OSError):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if self._file >= 0:
            os.close(self._file)  # which ends the lock
        self._file = -1
        self._threads.release()


def _read(
    path: Path, description: Mapping[str, Any], expected: Callable[[Path], Status], large: _OneAtATime
) -> Picture | Damaged:
    try:
        data, status = content(path)
        if status_of(status) != expected(path):
            raise DataUnavailableError(
                f"image_folder: {place(path)} changed while the folder was read; try again once nothing changes it"
            )
        return read(data, description, large)
    except PictureError as error:
        return Damaged(str(error))
    except OSError as error:
        reason = error.strerror or error
        raise DataUnavailableError(f"image_folder: {place(path)} cannot be read ({reason})") from error
