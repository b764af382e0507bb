"""ImageFolderReader: images in `root/<class>/<file>`, resized to one size; damaged ones are reported by name.

Owns the walk over the folder and the decoding of each image. It must not know what is cached or how the training
set is split.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from search_spaces.datasets import ImageFolder
from workers.data.cache import create_array
from workers.data.errors import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
LISTED_FILES = 20  # in one message; the rest are counted
MAX_SIDES_RATIO = 3.0  # beyond it, resizing to a square distorts what is seen
READ_AHEAD = 256  # decoded images held at a time

log = logging.getLogger(__name__)


class ImageFolderReader:
    """Lists the images when it is made and opens none. Raises DataError for an absent folder or one without classes.

    `parts` holds, for "train" and "test", (class index, path) in a fixed order.
    """

    def __init__(self, spec: ImageFolder, data_root: Path) -> None:
        self._spec = spec
        self.root = data_root / spec.path
        self.ignored: list[str] = []
        self.class_names, self.parts = self._scan()

    @property
    def replaces(self) -> str | None:
        return str(self.root.resolve())

    def identity(self) -> list[Any]:
        """The files' names, sizes and times of change, and how they are resized."""
        files = hashlib.sha256()
        for part, images in self.parts.items():
            for label, path in images:
                status = path.stat()
                name = path.relative_to(self.root).as_posix()
                files.update(f"{part}\0{label}\0{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return ["image_folder", self._spec.size, self._spec.color, list(self.class_names), files.hexdigest()]

    def decode(self, folder: Path, *, download: bool) -> dict[str, Any]:
        """Raises DataError that lists every file that cannot be read."""
        spec = self._spec
        damaged: list[str] = []
        shapes: dict[str, tuple[int, int]] = {}
        for part, files in self.parts.items():
            shape = (len(files), 3 if spec.color == "rgb" else 1, spec.size, spec.size)
            images = create_array(folder, f"{part}_images", shape, np.uint8)
            labels = create_array(folder, f"{part}_labels", (len(files),), np.int64)
            for index, ((label, path), image) in enumerate(zip(files, _read_all(files, spec), strict=True)):
                name = path.relative_to(self.root).as_posix()
                if isinstance(image, str):
                    damaged.append(f"{name} ({image})")
                    continue
                images[index], shapes[name] = image
                labels[index] = label
        if damaged:
            raise DataError(
                f"image_folder: {len(damaged)} damaged images in {self.root}: {_listed(damaged)}; repair or remove them"
            )
        notes = _notes(self.ignored, shapes)
        for note in notes:
            log.warning("image_folder %s: %s", self.root, note)
        return {"class_names": list(self.class_names), "notes": notes}

    def _scan(self) -> tuple[tuple[str, ...], dict[str, tuple[tuple[int, Path], ...]]]:
        root = self.root
        if not root.is_dir():
            raise DataError(f"image_folder: there is no folder {root}; put images into {root}/<class>/<file>")
        has_parts = (root / "train").is_dir() and (root / "test").is_dir()
        folders = _classes(root / "train" if has_parts else root)
        if len(folders) < 2:
            raise DataError(
                f"image_folder: {root} must have at least two class folders (got {[f.name for f in folders]})"
            )
        names = tuple(folder.name for folder in folders)
        parts: dict[str, list[tuple[int, Path]]] = {"train": [], "test": []}
        for label, folder in enumerate(folders):
            files = self._images(folder)
            if not files:
                raise DataError(f"image_folder: no images in the class folder {folder}; known: {sorted(SUFFIXES)}")
            held_out = frozenset() if has_parts else _held_out(files, self._spec.test_fraction)
            for path in files:
                parts["test" if path in held_out else "train"].append((label, path))
        if has_parts:
            for folder in _classes(root / "test"):
                if folder.name not in names:
                    raise DataError(
                        f"image_folder: the class {folder.name} of {root}/test must be one of {list(names)}"
                    )
                parts["test"] += [(names.index(folder.name), path) for path in self._images(folder)]
        return names, {part: tuple(images) for part, images in parts.items()}

    def _images(self, folder: Path) -> list[Path]:
        found = []
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                found.append(path)
            else:
                self.ignored.append(path.relative_to(self.root).as_posix())
        return found


def _classes(root: Path) -> list[Path]:
    return sorted((p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.name)


def _held_out(files: list[Path], fraction: float) -> frozenset[Path]:
    """The test share of one class, chosen by the files' names: a new file seldom moves an old one to the other part."""
    count = min(max(1, round(fraction * len(files))), len(files) - 1)
    return frozenset(sorted(files, key=lambda path: hashlib.sha256(path.name.encode()).digest())[:count])


def _read_all(
    files: tuple[tuple[int, Path], ...], spec: ImageFolder
) -> Iterator[tuple[NDArray[np.uint8], tuple[int, int]] | str]:
    """Decoded images in order, read by a few threads, READ_AHEAD at a time."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for some in _batches(files, READ_AHEAD):
            yield from pool.map(lambda item: _read(item[1], spec), some)


def _batches(items: Iterable[tuple[int, Path]], size: int) -> Iterator[list[tuple[int, Path]]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some


def _read(path: Path, spec: ImageFolder) -> tuple[NDArray[np.uint8], tuple[int, int]] | str:
    """The image as [C, size, size] and its (width, height) on disk, or what is wrong with it."""
    try:
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
        shape = image.size
        if min(shape) < 1:
            return f"{shape[0]}x{shape[1]} pixels"
        if image.mode.startswith("I"):  # 16 bits; converting would clip all above 255
            image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
        elif "transparency" in image.info:
            image = image.convert("RGBA")
        image = image.convert("RGB" if spec.color == "rgb" else "L")
        image = image.resize((spec.size, spec.size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return str(error).replace(str(path), path.name) or type(error).__name__
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), shape


def _notes(ignored: list[str], shapes: dict[str, tuple[int, int]]) -> list[str]:
    """What a person should know: files that are no images, and images of unusual size.

    An image is unusual if nine of ten others share one size, or if its sides differ by more than MAX_SIDES_RATIO.
    """
    common, count = Counter(shapes.values()).most_common(1)[0]
    uniform = count >= 0.9 * len(shapes)
    unusual = [
        f"{name} ({w}x{h})"
        for name, (w, h) in shapes.items()
        if (uniform and (w, h) != common) or max(w, h) > MAX_SIDES_RATIO * min(w, h)
    ]
    notes = []
    if ignored:
        notes.append(f"{len(ignored)} files are not images and were skipped: {_listed(ignored)}")
    if unusual:
        notes.append(f"{len(unusual)} images of unusual size were resized like the others: {_listed(unusual)}")
    return notes


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - LISTED_FILES} more" if len(names) > LISTED_FILES else ""
    return ", ".join(names[:LISTED_FILES]) + more
