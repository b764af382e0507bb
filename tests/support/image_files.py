"""Small data sets as files: images in folders, and idx files as MNIST has."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]


def save_image(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (12, 12), mode: str = "RGB") -> None:
    """Write an image of one color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path)


def idx(array: Array) -> bytes:
    """A uint8 array in the format of MNIST's files."""
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx_files(folder: Path, *, compressed: bool) -> dict[str, Array]:
    """Write the four files of a data set like MNIST with 40 training and 20 test images. Returns the images by part."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    arrays: dict[str, Array] = {}
    for part, n in (("train", 40), ("t10k", 20)):
        arrays[part] = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        for name, array in (("images-idx3", arrays[part]), ("labels-idx1", np.arange(n) % 10)):
            path = folder / f"{part}-{name}-ubyte{'.gz' * compressed}"
            path.write_bytes(gzip.compress(idx(array), mtime=0) if compressed else idx(array))
    return arrays
