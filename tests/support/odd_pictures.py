"""Image files as people have them: more than 8 bits, transparent, with broken tags, under names of other encodings."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
#: Of a PNG: number of channels -> its color type.
PNG_COLORS = {1: 0, 2: 4, 3: 2, 4: 6}
#: An EPS file, which Pillow would hand to Ghostscript.
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"


def save_odd_classes(folder: Path, count: int, seed: int) -> int:
    """Images of the classes `left`, `none` and `top`, by the half that is bright. Returns their number.

    They differ in size, mode, EXIF turn, transparency and bits. The contrast of the first is zero and grows from image
    to image, so that no network is always right.
    """
    generator = np.random.default_rng(seed)
    for label in ("left", "none", "top"):
        for number in range(count):
            height, width = generator.integers(16, 41, 2)
            values = generator.normal(100, 25, (height, width))
            halves: dict[str, Any] = {"left": np.s_[:, : width // 2], "none": np.s_[:0], "top": np.s_[: height // 2]}
            values[halves[label]] += 100 * number / count
            _save_odd(folder / label / str(number), values.clip(0, 255).astype(np.uint8), number % 7)
    return 3 * count


def _save_odd(path: Path, values: Array, kind: int) -> None:
    """The same gray picture in one of seven ways, in a file of this name with a suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    match kind:
        case 0:
            image.save(path.with_suffix(".png"))
        case 1:  # on its side, and an EXIF tag that turns it back
            turned = image.transpose(Image.Transpose.ROTATE_90).convert("RGB")
            save_jpeg(path.with_suffix(".jpg"), turned, (0x0112, 3, 1, struct.pack("<H", 6)))
        case 2:
            save_png16(path.with_suffix(".png"), values.astype(np.uint16) * 16)
        case 3:  # black that covers the background where it is dark
            black, alpha = np.zeros_like(values), 255 - values
            Image.fromarray(np.dstack([black, black, black, alpha])).save(path.with_suffix(".png"))
        case 4:  # indices of a palette that begins with white
            indexed = Image.fromarray(255 - values).convert("P")
            indexed.putpalette([255 - index // 3 for index in range(768)])
            indexed.save(path.with_suffix(".gif"))
        case 5:
            save_tiff(path.with_suffix(".tif"), values.astype(np.float32) * 16)
        case 6:
            image.convert("CMYK").save(path.with_suffix(".jpg"), quality=95)


def patterned(index: int, low: float, high: float, side: int = 12) -> Array:
    """A square whose left columns are `low` and whose others are `high`; `index` decides how many are left."""
    values = np.full((side, side), high, dtype=np.float64)
    values[:, : 1 + index % (side - 1)] = low
    return values


def save_png16(path: Path, values: Array) -> None:
    """A PNG with 16 bits for each channel of [H, W] or [H, W, 2..4], which Pillow cannot write in color."""
    height, width = values.shape[:2]
    color = PNG_COLORS[1 if values.ndim == 2 else values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks))


def save_packed_png(path: Path, bits: int, transparent: int) -> None:
    """A gray PNG of 12x12 with 1, 2 or 4 bits for each pixel: 0 at the left, and 1 at the right. One is transparent."""
    text = "".join(f"{value:0{bits}b}" for value in [0] * 6 + [1] * 6)
    size = (12 * bits + 7) // 8
    row = int(text.ljust(8 * size, "0"), 2).to_bytes(size, "big")
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 12, 12, bits, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", transparent)),
        (b"IDAT", zlib.compress(12 * (b"\0" + row))),
        (b"IEND", b""),
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks))


def save_bmp32(path: Path, alpha: int) -> None:
    """A blue BMP of 12x12 whose header says that the fourth byte of each pixel is alpha."""
    pixels = bytes([255, 0, 0, alpha]) * 144
    header = struct.pack("<IiiHHIIiiII", 56, 12, 12, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    start = 14 + len(header) + len(masks)
    path.write_bytes(b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + masks + pixels)


def save_tiff(path: Path, values: Array, inverted: bool = False) -> None:
    """A TIFF of the values' own type: unsigned or signed integers of 8, 16 or 32 bits, or floats of 32 bits.

    `inverted`: it says that zero is white.
    """
    height, width = values.shape
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = [
        (256, width), (257, height), (258, 8 * values.dtype.itemsize), (259, 1), (262, int(not inverted)),
        (273, 8), (277, 1), (278, height), (279, len(data)), (339, kind),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    )


def save_jpeg(path: Path, image: Image.Image, *tags: tuple[int, int, int, bytes]) -> None:
    """A JPEG whose EXIF block has these tags: (tag, type, count, value), as a camera's firmware may write them."""
    entries, extra = b"", b""
    offset = 8 + 2 + 12 * len(tags) + 4
    for tag, kind, count, value in tags:
        held = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", offset + len(extra))
        extra += b"" if len(value) <= 4 else value
        entries += struct.pack("<HHI", tag, kind, count) + held
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0" + extra
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", exif=exif, quality=95)


def named(folder: Path, name: bytes) -> Path:
    """A path whose name is these bytes."""
    return folder / os.fsdecode(name)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
