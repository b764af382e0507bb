"""Pictures: one encoded image as an array of 8-bit pixels.

    description = describe(height=64, width=64, channels=3)
    pixels = decode(path_or_bytes, description)  # uint8 [channels, height, width]

Owns the whole decoding: the formats, the limits, the turn by the EXIF orientation, transparency, the scaling of values
that are not 8-bit, the conversion of color, and the resizing. A description is a plain JSON object and decides all of
it: equal description, equal pixels. The module needs only Pillow and numpy, so that a registered model can carry a copy
of it. It must not know data sets, classes or folders, and imports nothing of Rung.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

VERSION: Final = 1  # of the description's format
VERSION_0_1: Final = "0.1"  # a description's `conversion`, which others do not have
#: Named, because Pillow chooses by content: an EPS file called .png would start Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
#: The first bytes of files -> the format as a person knows it.
BEGINNINGS = {
    b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"BM": "BMP",
    b"RIFF": "WebP",
}  # fmt: skip
MAX_PIXELS = 64_000_000  # of one image: it takes 256 MB with alpha, and a file of 20 kB may claim any number
MAX_PIXELS_0_1 = 178_956_970  # Pillow's own limit, which version 0.1 had
MAX_BYTES = 512 * 2**20  # of one file: what MAX_PIXELS take as float64
#: Of a JPEG. Each scan takes as long as the whole image, and some bytes of the file: libtiff has the same limit.
MAX_SCANS = 100
SCAN = b"\xff\xda"  # begins a scan
#: A marker of a JPEG. In a scan's own data, a zero or the number of a restart follows each 0xff.
MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
JPEG_END, WITHOUT_LENGTH = b"\xff\xd9", {b"\xff\xd8", b"\xff\x01"}
MAX_SEGMENTS = 10_000  # of a JPEG that are looked at: it has tens
MAX_HEADER = 65_536  # bytes of a PNM's header, which Pillow reads one by one
LARGE_PIXELS = 8_000_000  # larger images are decoded one at a time by a caller that has several threads
WHITE = 255
#: Chunks of a PNG with text or a color profile, which change no pixel. Pillow refuses a file in which one is large.
METADATA = (b"iCCP", b"iTXt", b"tEXt", b"zTXt")
MAX_METADATA = 1000  # bytes of a chunk that is kept: zlib makes at most 1032 times as many of them, Pillow's limit
TOO_MUCH_TEXT = "MAX_TEXT_"  # in Pillow's error
SCALED_AT_ONCE = 2**20  # values, which take 8 bytes each meanwhile
ORIENTATION = 0x0112  # tag of EXIF and TIFF
PHOTOMETRIC, SAMPLE_FORMAT, BITS_PER_SAMPLE = 262, 339, 258  # tags of TIFF
SIGNED = 2  # a value of SAMPLE_FORMAT
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
ALPHA_MODES = frozenset({"LA", "PA", "RGBA"})
#: Pillow's names of gray with few bits -> the gray levels of one step. It leaves the transparent value unscaled.
STEPS = {"L;2": 85, "L;4": 17}
#: Pillow's names of 16 bits for each channel -> the name by which it reads the other byte of each value.
OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}

Levels = tuple[float, float]


class PictureError(ValueError):
    """An image that cannot be read, or that a description does not cover. The message does not name the file."""


@dataclass(frozen=True)
class Picture:
    """`pixels` is uint8 [C, H, W]; None if the stored values are not 8-bit and the description has no range for them.

    `shape` is the width and height in the file, after the turn. `mode` is Pillow's name of what is stored, with the
    bits of each channel where Pillow's name does not tell. `levels` are the smallest and the largest finite value of
    an image that is not 8-bit. `composited`: transparent pixels were drawn on the background. `frames`: the file
    has more than the one image that was read. `sha256` is that of the file. `inverted`: the smallest value is white.
    `not_finite`: it holds NaN or infinite values, which were read as the smallest or the largest value of the range.
    `invisible`: every pixel is transparent.
    """

    pixels: NDArray[np.uint8] | None
    shape: tuple[int, int]
    mode: str
    levels: Levels | None
    composited: bool
    frames: bool
    sha256: str
    inverted: bool = False
    not_finite: bool = False
    invisible: bool = False


def describe(
    height: int,
    width: int,
    channels: int,
    *,
    value_range: Sequence[float] | None = None,
    background: int = WHITE,
    as_version_0_1: bool = False,
) -> dict[str, Any]:
    """The description of a decoding, as JSON.

    `channels` is 3 (RGB) or 1 (gray). `value_range`: the values that become 0 and 255 in images that are not 8-bit
    (16 or 32 bits, signed, float); None if they are not to be read. `background` is the gray level that transparent
    pixels are drawn on. `as_version_0_1`: neither is used, and values and transparency are converted as that version
    did it.
    """
    return {
        "version": VERSION,
        **({"conversion": VERSION_0_1} if as_version_0_1 else {}),
        "height": height,
        "width": width,
        "channels": channels,
        "resampling": "bilinear",
        "orientation": "exif",
        "background": background,
        "value_range": None if value_range is None else [float(value) for value in value_range],
        "max_pixels": MAX_PIXELS_0_1 if as_version_0_1 else MAX_PIXELS,
    }


def decode(source: bytes | str | Path, description: Mapping[str, Any]) -> NDArray[np.uint8]:
    """The pixels of an encoded image, or of the file at a path: uint8 [C, H, W]. Raises PictureError, MemoryError."""
    picture = read(source, description)
    if picture.pixels is None:
        assert picture.levels is not None
        raise PictureError(
            f"must be 8-bit (got {picture.mode} with values from {picture.levels[0]:g} to {picture.levels[1]:g}), "
            "because the description has no value_range"
        )
    return picture.pixels


def read(
    source: bytes | str | Path, description: Mapping[str, Any], large: AbstractContextManager[Any] | None = None
) -> Picture:
    """The image and what was done to it. `large` is held while an image of more than LARGE_PIXELS is decoded.

    Raises PictureError for whatever Pillow raises, and MemoryError.
    """
    if description.get("version") != VERSION:
        raise PictureError(f"the description's version must be {VERSION} (got {description.get('version')!r})")
    limit = int(description["max_pixels"])
    try:
        data = source if isinstance(source, bytes) else content(Path(source))[0]
        if not data:
            raise PictureError("is empty")
        _check_work(data)
        digest = hashlib.sha256(data).hexdigest()
        try:
            return _opened(data, description, large, digest)
        except ValueError as error:
            if TOO_MUCH_TEXT not in str(error):
                raise
        return _opened(_without_metadata(data), description, large, digest)
    except (PictureError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        claimed = re.search(r"(\d+) pixels", str(error))  # Pillow raises before it tells width and height
        size = f"{int(claimed[1]) / 1e6:g} million" if claimed else "more"
        raise PictureError(_too_large(limit, size)) from error
    except UnidentifiedImageError as error:
        raise PictureError(_unidentified(data)) from error
    except OSError as error:
        raise PictureError(error.strerror or str(error) or type(error).__name__) from error
    except Exception as error:  # Pillow raises whatever its parsers meet: struct.error, TypeError, KeyError ...
        if TOO_MUCH_TEXT in str(error):
            raise PictureError("has too much text in its metadata; save it without them") from error
        raise PictureError(f"{type(error).__name__}: {error}") from error


def _check_work(data: bytes) -> None:
    """Refuse a file of few bytes, or of bytes without a meaning, that takes long to decode. Raises PictureError."""
    if data.startswith(b"\xff\xd8") and (scans := _scans(data)) > MAX_SCANS:
        raise PictureError(f"must have at most {MAX_SCANS} scans (got {scans})")
    if re.match(rb"P[0-6fFy]", data):
        head = re.sub(rb"#[^\n\r]*", b"", data[:MAX_HEADER])
        if len(data) > MAX_HEADER and len(head.split(maxsplit=4)) < 4:
            raise PictureError(f"must have its header in the first {MAX_HEADER} bytes")


def _scans(data: bytes) -> int:
    """Number of scans of a JPEG up to its end: what follows, such as the film of a moving photo, is not decoded. It may
    be too large for a file with few scans, or with too many segments."""
    every = data.count(SCAN)
    if every <= MAX_SCANS:
        return every
    scans, place = 0, 2
    for _ in range(MAX_SEGMENTS):
        found = MARKER.search(data, place)
        if found is None or found[0] == JPEG_END:
            return scans
        scans += found[0] == SCAN
        place = found.end()
        if found[0] not in WITHOUT_LENGTH:
            place += int.from_bytes(data[place : place + 2], "big")
    return every


def _opened(
    data: bytes, description: Mapping[str, Any], large: AbstractContextManager[Any] | None, digest: str
) -> Picture:
    limit = int(description["max_pixels"])
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        pixels = image.width * image.height
        if pixels > limit:
            raise PictureError(_too_large(limit, f"{image.width}x{image.height}"))
        if pixels < 1:
            raise PictureError(f"has no pixels: {image.width}x{image.height}")
        with large if large is not None and pixels > LARGE_PIXELS else nullcontext():
            return _read(image, data, description, digest)


def range_of(low: float, high: float) -> Levels:
    """The values that become 0 and 255 in a data set whose values are between `low` and `high`.

    Zero stays black unless that would leave more than three quarters of the gray levels unused.
    """
    if low == high:
        return (0.0, high) if high > 0 else (low, low + 1)
    return (0.0, high) if low >= 0 and high - low >= high / 4 else (low, high)


def scale(values: NDArray[Any], value_range: Sequence[float]) -> NDArray[np.uint8]:
    """Values as gray levels: those outside the range are clipped, and NaN becomes 0.

    Integers are rounded down, so that the range 0..65535 gives the upper eight bits divided by 257 as in version 0.1.
    """
    low, high = (float(value) for value in value_range)
    flat = np.ascontiguousarray(values).reshape(-1)
    levels = np.empty(flat.shape, np.uint8)
    rounded = np.rint if flat.dtype.kind == "f" else np.floor
    for start in range(0, len(flat), SCALED_AT_ONCE):
        part = flat[start : start + SCALED_AT_ONCE].astype(np.float64)
        part = (np.nan_to_num(part, nan=low, posinf=high, neginf=low).clip(low, high) - low) * WHITE / (high - low)
        levels[start : start + SCALED_AT_ONCE] = rounded(part)
    return levels.reshape(values.shape)


@dataclass(frozen=True)
class _Deep:
    """Values that are not 8-bit: [H, W] or [H, W, channels], and the alpha of each pixel.

    `mode` is that of Pillow once the values are gray levels, without alpha. `inverted`: the smallest value is white.
    """

    values: NDArray[Any]
    mode: str
    name: str
    alpha: NDArray[np.uint8] | None = None
    inverted: bool = False

    def levels(self) -> tuple[Levels, bool]:
        """The smallest and the largest finite value, and whether there are others."""
        values = self.values
        not_finite = values.dtype.kind == "f" and not np.isfinite(values).all()
        if not_finite:
            values = values[np.isfinite(values)]
            if not len(values):
                raise PictureError("has no finite value")
        return (float(values.min()), float(values.max())), bool(not_finite)

    def image(self, value_range: Sequence[float]) -> Image.Image:
        levels = scale(self.values, value_range)
        image = Image.fromarray(WHITE - levels if self.inverted else levels, self.mode)
        if self.alpha is not None:
            image = image.convert("RGB")
            image.putalpha(Image.fromarray(self.alpha))
        return image


def _read(image: Image.Image, data: bytes, description: Mapping[str, Any], digest: str) -> Picture:
    frames = _has_frames(image)
    deep = None if description.get("conversion") == VERSION_0_1 else _deep_values(image, data)
    step = STEPS.get(_rawmode(image), 1)
    image.load()
    name, levels, value_range = image.mode, None, description["value_range"]
    turn = _turn(image)
    width, height = image.size
    if turn is not None and turn not in (TURNS[2], TURNS[3], TURNS[4]):
        width, height = height, width
    pixels, composited, invisible = None, False, False
    if description.get("conversion") == VERSION_0_1:
        flat = _converted_as_version_0_1(image)
        pixels = _pixels(flat if turn is None else flat.transpose(turn), description)
        return Picture(pixels, (width, height), name, None, False, frames, digest)
    inverted, not_finite = False, False
    if deep is not None:
        name, inverted = deep.name, deep.inverted
        levels, not_finite = deep.levels()
    if deep is None or value_range is not None:
        plain: Image.Image = image if deep is None else deep.image(value_range)
        if isinstance(value := plain.info.get("transparency"), int):
            plain.info["transparency"] = value * step
        flat, composited, invisible = _without_alpha(plain, int(description["background"]))
        pixels = _pixels(flat if turn is None else flat.transpose(turn), description)
    return Picture(pixels, (width, height), name, levels, composited, frames, digest, inverted, not_finite, invisible)


def _pixels(image: Image.Image, description: Mapping[str, Any]) -> NDArray[np.uint8]:
    color = image.convert("RGB" if description["channels"] == 3 else "L")
    resized = color.resize((description["width"], description["height"]), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _converted_as_version_0_1(image: Image.Image) -> Image.Image:
    """Integers keep their upper byte, other values are clipped, and transparent pixels show what is stored in them."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    return image.convert("RGBA") if "transparency" in image.info else image


def _without_alpha(image: Image.Image, background: int) -> tuple[Image.Image, bool, bool]:
    """The image on the background, whether any of its pixels is transparent, and whether all are."""
    image = image.convert(PREMULTIPLIED[image.mode]) if image.mode in PREMULTIPLIED else image
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB"), False, False  # many programs leave the fourth byte empty, and others ignore it
    by_color = "transparency" in image.info
    if not by_color and image.mode not in ALPHA_MODES:
        return image, False, False
    drawn = image.convert("RGBA")
    extrema: Any = drawn.getchannel("A").getextrema()
    if extrema[0] == WHITE:
        return (drawn if by_color else image), False, False
    canvas = Image.new("RGBA", drawn.size, (background, background, background, WHITE))
    return Image.alpha_composite(canvas, drawn), True, extrema[1] == 0


def _turn(image: Image.Image) -> Image.Transpose | None:
    """None for a TIFF, which Pillow has turned already. Tags that cannot be read turn nothing."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return None


def _has_frames(image: Image.Image) -> bool:
    """Not of the format of cameras that keep a second view of the same picture."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:
        return False


def _deep_values(image: Any, data: bytes) -> _Deep | None:
    """The values of an image that is not 8-bit, of which Pillow would keep one byte or clip the rest; else None."""
    tags: Any = getattr(image, "tag_v2", {})
    signed = SIGNED in _tuple(tags.get(SAMPLE_FORMAT, 1))
    inverted = image.format == "TIFF" and tags.get(PHOTOMETRIC) == 0
    codec, _, offset, arguments = image.tile[0] if image.tile else ("", None, 0, "")
    rawmode = _rawmode(image)
    if codec.startswith("ppm") and isinstance(arguments, tuple) and rawmode == "RGB" and int(arguments[1]) > WHITE:
        if codec != "ppm":
            raise PictureError("must be a binary PPM file where a channel has more than 8 bits")
        count = image.width * image.height * 3
        values = np.frombuffer(data, ">u2", count, offset).reshape(image.height, image.width, 3)
        return _Deep(values, "RGB", "RGB;16")
    if image.mode in ("RGB", "RGBA", "CMYK") and rawmode.partition(";")[2] in OTHER_BYTE:
        return _sixteen_bits(image, data, rawmode)
    if len(bits := _tuple(tags.get(BITS_PER_SAMPLE, 8))) > 1 and max(bits) > 8:
        raise PictureError(
            f"channels of {max(bits)} bits must be stored together and not premultiplied (got {rawmode})"
        )
    if image.mode.startswith("I") or image.mode == "F":
        image.load()
        values = np.asarray(image)
        if image.mode == "I" and not signed and max(_tuple(tags.get(BITS_PER_SAMPLE, 0))) == 32:
            values = values.view(np.uint32)
        transparent = image.info.get("transparency")
        alpha = None if transparent is None else np.where(values == transparent, 0, WHITE).astype(np.uint8)
        return _Deep(values, "L", image.mode, alpha, inverted)
    if image.mode == "L" and signed:
        image.load()
        return _Deep(np.asarray(image).view(np.int8), "L", "L;signed", None, inverted)
    return None


def _sixteen_bits(image: Image.Image, data: bytes, rawmode: str) -> _Deep:
    """16 bits for each of several channels. Pillow keeps the upper byte of each value, so the file is read twice."""
    channels, _, order = rawmode.partition(";")
    if channels == "RGBa":
        raise PictureError("channels of 16 bits must not be premultiplied by alpha")
    image.load()
    upper = np.asarray(image)
    # Gray with alpha has four bytes for each pixel, which are read as they are.
    other = "RGBA" if channels == "LA" else f"{channels};{OTHER_BYTE[order]}"
    again: Any = Image.open(io.BytesIO(data), formats=FORMATS)
    with again:
        again.tile = [
            tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
            for tile in again.tile
        ]
        again.load()
        lower = np.asarray(again)
    if channels == "LA":
        both = lower.astype(np.uint16)
        return _Deep(both[..., 0] << 8 | both[..., 1], "L", "LA;16", lower[..., 2])
    values = upper.astype(np.uint16) << 8 | lower
    if channels == "RGBA":
        return _Deep(values[..., :3], "RGB", "RGBA;16", upper[..., 3])
    alpha, transparent = None, image.info.get("transparency")
    if channels == "RGB" and transparent is not None:
        alpha = np.where((values == transparent).all(axis=-1), 0, WHITE).astype(np.uint8)
    return _Deep(values, image.mode, f"{image.mode};16", alpha)


def _without_metadata(data: bytes) -> bytes:
    """A PNG without its large chunks of METADATA."""
    kept, begin, start = [], 0, 8  # the parts between those chunks: a file may have millions of small ones
    while start < len(data):
        length = int.from_bytes(data[start : start + 4])
        end = start + length + 12
        if length > MAX_METADATA and data[start + 4 : start + 8] in METADATA:
            kept.append(data[begin:start])
            begin = end
        start = end
    return b"".join([*kept, data[begin:]])


def content(path: Path) -> tuple[bytes, os.stat_result]:
    """A file's bytes and its status, which is that of the file that was read whatever happens to its name meanwhile.

    Raises OSError, and PictureError for what is not a regular file or too large.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe that nobody writes to would be waited for
        raise PictureError("must be a regular file")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
        status = os.fstat(file.fileno())
    if len(data) > MAX_BYTES:
        raise PictureError(f"must have at most {MAX_BYTES // 2**20} MiB")
    return data, status


def _unidentified(data: bytes) -> str:
    for beginning, name in BEGINNINGS.items():
        if data.startswith(beginning):
            return f"begins like {name}, but is damaged or holds pixels of a kind that cannot be read"
    if data[4:8] == b"ftyp":
        return "is HEIC, AVIF or a video, which cannot be read; convert it to PNG or JPEG"
    return f"is not an image of a known format ({', '.join(FORMATS)})"


def _rawmode(image: Any) -> str:
    """Pillow's name of what is stored; to be asked for before the image is loaded."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _too_large(limit: int, size: str) -> str:
    return f"must have at most {limit / 1e6:g} million pixels (got {size})"


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
