"""Version 0.1: how it listed an image folder, for experiments that it began.

An experiment compares trials that were trained on the same images, so one that resumes lists what it listed before:

    <class>/<file>                        the test set is a share of each class
    train/<class>/<file>  test/...        both must be there, otherwise all folders are classes

Owns that listing. `pictures` has the decoding. It must not know how new experiments list a folder, and never changes.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from search_spaces.datasets.base import DataError, DataUnavailableError
from search_spaces.datasets.image_folder.layout import FoundImages, Labeled
from search_spaces.phrases import listed, shown

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def find_images(root: Path, test_fraction: float) -> FoundImages:
    """The images of a folder. Raises DataUnavailableError for an absent or empty folder, DataError for one without
    classes, and OSError."""
    if not root.is_dir():
        raise DataUnavailableError(f"image_folder: there is no folder {root}; put images into {root}/<class>/<file>")
    given = (root / "train").is_dir() and (root / "test").is_dir()
    folders = _classes(root / "train" if given else root)
    names = [folder.name for folder in folders]
    if len(folders) < 2:
        kind = DataError if any(root.iterdir()) else DataUnavailableError
        raise kind(
            f"image_folder: {root} must have at least two class folders (got {listed(map(shown, names)) or 'none'})"
        )
    left_out: list[Path] = []
    train: Labeled = []
    test: Labeled = []
    for label, folder in enumerate(folders):
        found = _images(folder, left_out)
        if not found:
            raise DataError(
                f"image_folder: no images in the class folder {shown(str(folder))}; known: {sorted(SUFFIXES)}"
            )
        held_out = frozenset[Path]() if given else _held_out(found, test_fraction)
        train += [(label, path) for path in found if path not in held_out]
        test += [(label, path) for path in found if path in held_out]
    for folder in _classes(root / "test") if given else ():
        if folder.name not in names:
            known = listed(map(shown, names))
            raise DataError(f"image_folder: the class {shown(folder.name)} of {root}/test must be one of {known}")
        test += [(names.index(folder.name), path) for path in _images(folder, left_out)]
    summary = "the folder is read as version 0.1 read it (dataset.reader_version: 1)"
    relative = [shown(path.relative_to(root).as_posix()) for path in left_out]
    ignored = [f"files left out because they are not images: {listed(relative)}"] if relative else []
    parts = {"train": tuple(train), "test": tuple(test)}
    return FoundImages(root, tuple(map(shown, names)), parts, summary, (summary, *ignored), tuple(folders))


def _classes(root: Path) -> list[Path]:
    return sorted((p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.name)


def _images(folder: Path, left_out: list[Path]) -> list[Path]:
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            found.append(path)
        else:
            left_out.append(path)
    return found


def _held_out(files: list[Path], fraction: float) -> frozenset[Path]:
    """The test share of one class, chosen by the files' names."""
    count = min(max(1, round(fraction * len(files))), len(files) - 1)
    return frozenset(sorted(files, key=lambda path: hashlib.sha256(os.fsencode(path.name)).digest())[:count])
