"""Image folders: pictures in `root/<class>/<file>`, resized to one size, damaged ones reported by name.

Owns the walk over the folder and the decoding of each picture. What is cached, and how the training
set is split, is not known here.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from search_spaces.datasets import ImageFolder
from workers.data.cache import DataError, create_array

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
NAMED = 20  # files named in one message; the rest is counted
LONGEST_SIDES_RATIO = 3.0  # beyond it, resizing to a square distorts what is seen

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pictures:
    """The files of an image folder, by part ("train", "test"): (class index, path) in a fixed order."""

    spec: ImageFolder
    root: Path
    class_names: tuple[str, ...]
    parts: dict[str, tuple[tuple[int, Path], ...]]
    ignored: tuple[str, ...]

    def identity(self) -> list[Any]:
        """What the decoded content depends on: the files' names, sizes and times of change."""
        files = hashlib.sha256()
        for part, pictures in self.parts.items():
            for label, path in pictures:
                status = path.stat()
                name = path.relative_to(self.root).as_posix()
                files.update(f"{part}\0{label}\0{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return ["image_folder", self.spec.size, self.spec.color, list(self.class_names), files.hexdigest()]


def scan(spec: ImageFolder, data_root: Path) -> Pictures:
    """List the pictures; opens none. Raises DataError for an absent folder or one without classes."""
    root = data_root / spec.path
    if not root.is_dir():
        raise DataError(f"image_folder: no folder {root}; put pictures into {root}/<class>/<file>")
    given = (root / "train").is_dir() and (root / "test").is_dir()
    ignored: list[str] = []
    folders = _classes(root / "train" if given else root)
    if len(folders) < 2:
        raise DataError(f"image_folder: two or more class folders required in {root}, got {[f.name for f in folders]}")
    names = tuple(folder.name for folder in folders)
    parts: dict[str, list[tuple[int, Path]]] = {"train": [], "test": []}
    for label, folder in enumerate(folders):
        files = _pictures(folder, root, ignored)
        if not files:
            raise DataError(f"image_folder: no pictures in the class folder {folder}; known: {sorted(SUFFIXES)}")
        held_out = frozenset() if given else _held_out(files, spec.test_fraction)
        for path in files:
            parts["test" if path in held_out else "train"].append((label, path))
    if given:
        for folder in _classes(root / "test"):
            if folder.name not in names:
                raise DataError(f"image_folder: the class {folder.name} of {root}/test is not among {list(names)}")
            parts["test"] += [(names.index(folder.name), path) for path in _pictures(folder, root, ignored)]
    fixed = {part: tuple(pictures) for part, pictures in parts.items()}
    return Pictures(spec, root, names, fixed, tuple(ignored))


def decode(pictures: Pictures, folder: Path) -> dict[str, Any]:
    """Write training and test arrays into `folder`; returns class names and notes on odd files.

    Raises DataError that names every file that cannot be read.
    """
    spec = pictures.spec
    damaged: list[str] = []
    shapes: dict[str, tuple[int, int]] = {}
    for part, files in pictures.parts.items():
        shape = (len(files), 3 if spec.color == "rgb" else 1, spec.size, spec.size)
        images = create_array(folder, f"{part}_images", shape, np.uint8)
        labels = create_array(folder, f"{part}_labels", (len(files),), np.int64)
        for index, ((label, path), picture) in enumerate(zip(files, _read_all(files, spec), strict=True)):
            name = path.relative_to(pictures.root).as_posix()
            if isinstance(picture, str):
                damaged.append(f"{name} ({picture})")
                continue
            images[index], shapes[name] = picture
            labels[index] = label
    if damaged:
        raise DataError(
            f"image_folder: {len(damaged)} damaged pictures in {pictures.root}: {_named(damaged)}; "
            "repair or remove them"
        )
    notes = _notes(pictures.ignored, shapes)
    for note in notes:
        log.warning("image_folder %s: %s", pictures.root, note)
    return {"class_names": list(pictures.class_names), "notes": notes}


def _classes(root: Path) -> list[Path]:
    return sorted((p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.name)


def _pictures(folder: Path, root: Path, ignored: list[str]) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            found.append(path)
        else:
            ignored.append(path.relative_to(root).as_posix())
    return found


def _held_out(files: list[Path], fraction: float) -> frozenset[Path]:
    """The test share of one class. Chosen by the files' names, so that new files move no old one to the other part
    more often than they must."""
    count = min(max(1, round(fraction * len(files))), len(files) - 1)
    return frozenset(sorted(files, key=lambda path: hashlib.sha256(path.name.encode()).digest())[:count])


def _read_all(
    files: tuple[tuple[int, Path], ...], spec: ImageFolder
) -> Iterator[tuple[NDArray[np.uint8], tuple[int, int]] | str]:
    """Decoded pictures in order, read by a few threads and a few hundred ahead, never all at once."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for some in _batches(files, 256):
            yield from pool.map(lambda item: _read(item[1], spec), some)


def _batches(items: Iterable[tuple[int, Path]], size: int) -> Iterator[list[tuple[int, Path]]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some


def _read(path: Path, spec: ImageFolder) -> tuple[NDArray[np.uint8], tuple[int, int]] | str:
    """The picture as [C, size, size] and its (width, height) on disk, or what is wrong with it."""
    try:
        with Image.open(path) as opened:
            opened.load()
            picture = ImageOps.exif_transpose(opened)
        shape = picture.size
        if min(shape) < 1:
            return f"{shape[0]}x{shape[1]} pixels"
        if picture.mode.startswith("I"):  # 16 bits; converting would clip all above 255
            picture = Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))
        elif "transparency" in picture.info:
            picture = picture.convert("RGBA")
        picture = picture.convert("RGB" if spec.color == "rgb" else "L")
        picture = picture.resize((spec.size, spec.size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return str(error).replace(str(path), path.name) or type(error).__name__
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), shape


def _notes(ignored: tuple[str, ...], shapes: dict[str, tuple[int, int]]) -> list[str]:
    """What a person should know: files that are no pictures, and sizes that stand out.

    Where nine of ten pictures share one size, the others stand out; and always those whose sides
    differ by more than LONGEST_SIDES_RATIO.
    """
    common, count = Counter(shapes.values()).most_common(1)[0]
    uniform = count >= 0.9 * len(shapes)
    odd = [
        f"{name} ({w}x{h})"
        for name, (w, h) in shapes.items()
        if (uniform and (w, h) != common) or max(w, h) > LONGEST_SIDES_RATIO * min(w, h)
    ]
    notes = []
    if ignored:
        notes.append(f"{len(ignored)} files are no pictures and were left out: {_named(ignored)}")
    if odd:
        notes.append(f"{len(odd)} pictures of odd sizes were resized all the same: {_named(odd)}")
    return notes


def _named(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more
