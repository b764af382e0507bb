"""Reading: many image files in order, by a few threads. It must not know what the classes of the images are."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
    """The images of the files in order, read by a few threads, READ_AHEAD at a time; large ones one after another.

    Raises DataUnavailableError where the operating system cannot read a file, or where the file that is read does not
    have its `expected` status: neither says anything of the image.
    """
    one = partial(_read, description=description, expected=expected, large=threading.Lock())
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), READ_AHEAD):
            yield from pool.map(one, paths[start : start + READ_AHEAD])


def _read(
    path: Path, description: Mapping[str, Any], expected: Callable[[Path], Status], large: threading.Lock
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
