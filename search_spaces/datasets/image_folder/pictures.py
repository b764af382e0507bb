"""Pictures: one image file as an array, with Pillow. It must not know where files lie or what their classes are.

This module imports numpy and Pillow; only the reader imports it, when it decodes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

READ_AHEAD = 256  # decoded images held at a time


@dataclass(frozen=True)
class Picture:
    """`pixels` is uint8 [C, size, size]; `shape` is the width and height on disk, after the turn of its EXIF tag."""

    pixels: NDArray[np.uint8]
    shape: tuple[int, int]


@dataclass(frozen=True)
class Damaged:
    """A file that cannot be read as an image."""

    reason: str


def read_pictures(paths: Sequence[Path], size: int, channels: int) -> Iterator[Picture | Damaged]:
    """The images of the files in order, read by a few threads, READ_AHEAD at a time."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), READ_AHEAD):
            yield from pool.map(partial(_read, size=size, channels=channels), paths[start : start + READ_AHEAD])


def _read(path: Path, size: int, channels: int) -> Picture | Damaged:
    try:
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
        shape = image.size
        if min(shape) < 1:
            return Damaged(f"{shape[0]}x{shape[1]} pixels")
        if image.mode.startswith("I"):  # 16 bits; converting would clip all above 255
            image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
        elif "transparency" in image.info:
            image = image.convert("RGBA")
        image = image.convert("RGB" if channels == 3 else "L")
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return Damaged(str(error).replace(str(path), path.name) or type(error).__name__)
    pixels = np.asarray(image)
    return Picture(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), shape)
