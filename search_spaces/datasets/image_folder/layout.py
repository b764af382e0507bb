"""Layout: which files below a folder are images, and the class and the part that each belongs to.

Reads names only. It must not know how images are decoded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from search_spaces.datasets.base import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
LISTED_FILES = 20  # in one message; the rest are counted


@dataclass(frozen=True)
class FoundImages:
    """`parts` holds, for "train" and "test", (class index, path) in a fixed order. `notes` are for a person."""

    root: Path
    class_names: tuple[str, ...]
    parts: dict[str, tuple[tuple[int, Path], ...]]
    notes: tuple[str, ...]

    def name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def find_images(root: Path, test_fraction: float) -> FoundImages:
    """The images of a folder. Raises DataError if it is absent, or its classes are fewer than two or empty."""
    if not root.is_dir():
        raise DataError(f"image_folder: there is no folder {root}; put images into {root}/<class>/<file>")
    has_parts = (root / "train").is_dir() and (root / "test").is_dir()
    folders = _classes(root / "train" if has_parts else root)
    if len(folders) < 2:
        raise DataError(f"image_folder: {root} must have at least two class folders (got {[f.name for f in folders]})")
    names = tuple(folder.name for folder in folders)
    parts: dict[str, list[tuple[int, Path]]] = {"train": [], "test": []}
    others: list[Path] = []
    for label, folder in enumerate(folders):
        files = _images(folder, others)
        if not files:
            raise DataError(f"image_folder: no images in the class folder {folder}; known: {sorted(SUFFIXES)}")
        held_out = frozenset() if has_parts else _held_out(files, test_fraction)
        for path in files:
            parts["test" if path in held_out else "train"].append((label, path))
    if has_parts:
        for folder in _classes(root / "test"):
            if folder.name not in names:
                raise DataError(f"image_folder: the class {folder.name} of {root}/test must be one of {list(names)}")
            parts["test"] += [(names.index(folder.name), path) for path in _images(folder, others)]
    ignored = [path.relative_to(root).as_posix() for path in others]
    notes = (f"{len(ignored)} files are not images and were skipped: {listed(ignored)}",) if ignored else ()
    return FoundImages(root, names, {part: tuple(images) for part, images in parts.items()}, notes)


def listed(names: list[str]) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - LISTED_FILES} more" if len(names) > LISTED_FILES else ""
    return ", ".join(names[:LISTED_FILES]) + more


def _classes(root: Path) -> list[Path]:
    return sorted((p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.name)


def _images(folder: Path, others: list[Path]) -> list[Path]:
    """The images of a class. Everything else in its folder is appended to `others`."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            found.append(path)
        else:
            others.append(path)
    return found


def _held_out(files: list[Path], fraction: float) -> frozenset[Path]:
    """The test share of one class, chosen by the files' names: a new file seldom moves an old one to the other part."""
    count = min(max(1, round(fraction * len(files))), len(files) - 1)
    return frozenset(sorted(files, key=lambda path: hashlib.sha256(path.name.encode()).digest())[:count])
