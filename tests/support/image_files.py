"""Small data sets as files: images in folders, and the idx files of the MNIST family."""

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
    """A file of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).convert(mode).save(path)


def idx(array: Array) -> bytes:
    """An array of bytes in the format of MNIST's files."""
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx_files(folder: Path, *, packed: bool) -> dict[str, Array]:
    """The four files of an MNIST of 40 training and 20 test images; gives the images by part."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    arrays: dict[str, Array] = {}
    for part, n in (("train", 40), ("t10k", 20)):
        arrays[part] = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        for name, array in (("images-idx3", arrays[part]), ("labels-idx1", np.arange(n) % 10)):
            path = folder / f"{part}-{name}-ubyte{'.gz' * packed}"
            path.write_bytes(gzip.compress(idx(array), mtime=0) if packed else idx(array))
    return arrays
