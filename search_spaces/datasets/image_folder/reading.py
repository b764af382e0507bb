"""Reading: many image files in order, by a few threads. It must not know what the classes of the images are."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from search_spaces.datasets.base import DataUnavailableError
from search_spaces.datasets.image_folder.listing import place
from search_spaces.datasets.image_folder.pictures import Picture, PictureError, read

READ_AHEAD = 256  # decoded images held at a time


@dataclass(frozen=True)
class Damaged:
    """A file that cannot be read as an image."""

    reason: str


def read_pictures(paths: Sequence[Path], description: Mapping[str, Any]) -> Iterator[Picture | Damaged]:
    """The images of the files in order, read by a few threads, READ_AHEAD at a time; large ones one after another.

    Raises DataUnavailableError where the operating system cannot read a file: that says nothing of the image.
    """
    one = partial(_read, description=description, large=threading.Lock())
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), READ_AHEAD):
            yield from pool.map(one, paths[start : start + READ_AHEAD])


def _read(path: Path, description: Mapping[str, Any], large: threading.Lock) -> Picture | Damaged:
    try:
        return read(path, description, large)
    except PictureError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno is not None:  # Pillow's own OSErrors have no number
            raise DataUnavailableError(f"image_folder: {place(path)} cannot be read ({error})") from cause
        return Damaged(str(error))
