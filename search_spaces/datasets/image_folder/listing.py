"""Listing: what is in a folder: images, other folders, and what is neither or cannot be read.

Owns what is read as an image, what is left out, and the sentences that say so. Names decide; only files without a
suffix are opened, once, for their first bytes. It must not know classes and parts, nor how images are decoded.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from search_spaces.phrases import counted, listed, quoted, shown

SUFFIXES = frozenset(
    {
        ".apng", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif",
        ".tiff", ".webp",
    }
)  # fmt: skip
#: Images that cannot be read: a person expects them to be used.
FOREIGN_SUFFIXES = frozenset(
    {
        ".avif", ".cr2", ".dcm", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".ico", ".jp2", ".jxl", ".nef",
        ".nii", ".npy", ".npz", ".pdf", ".psd", ".svg", ".tga",
    }
)  # fmt: skip
#: The first bytes of the formats that are read, for files without a suffix.
SIGNATURES = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|BM.{4}\0\0\0\0|II\*\0|MM\0\*|RIFF.{4}WEBP|P[1-6]\s", re.DOTALL
)
SIGNATURE_BYTES = 16
#: What operating systems and file servers add, in lower case. So is every name that begins with a dot.
SYSTEM_NAMES = frozenset(
    {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information"}
)
#: Size and time of change of a file, in bytes and ns: what tells one content from the next.
Status = tuple[int, int]
#: What was left out, as notes say it of one and of several.
LeftOut = tuple[str, str]
Names = list[str]
SYSTEM = ("hidden file or file of an operating system was", "hidden files and files of operating systems were")
SPECIAL = ("link to nothing or special file was", "links to nothing and special files were")
NOT_IMAGES = ("file that is not an image was", "files that are not images were")
FOREIGN = ("image in a format that cannot be read was", "images in formats that cannot be read were")
MASKS = (
    "image whose name says that it is a mask of another image was",
    "images whose names say that they are masks of other images were",
)
OUTSIDE = ("image outside class folders was", "images outside class folders were")
NESTED = ("folder inside a class folder was", "folders inside class folders were")
UNKNOWN = ("folder beside the parts was", "folders beside the parts were")


@dataclass(frozen=True)
class Limits:
    """Of the work of one search."""

    entries: int
    opened: int


@dataclass
class Listing:
    """What is directly in a folder, sorted by name."""

    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


class Search:
    """Lists folders, and keeps what was left out. Raises TooManyEntriesError beyond the limit of entries.

    Files without a suffix are opened up to their limit; further ones are in `unopened` and count as images.
    """

    def __init__(self, root: Path, limits: Limits | None) -> None:
        self.root = root
        self.folders: list[Path] = []
        self.left_out: dict[LeftOut, Names] = {}
        self.unopened: set[Path] = set()
        self._limits = limits
        self._entries = 0
        self._peeked: dict[Path, tuple[Listing, dict[LeftOut, Names]]] = {}
        self._opened: dict[Path, bool] = {}  # whether they begin like an image

    def peek(self, folder: Path) -> Listing:
        """What is in a folder, without keeping what was left out."""
        if folder not in self._peeked:
            self._peeked[folder] = self._scan(folder)
        return self._peeked[folder][0]

    def list(self, folder: Path) -> Listing:
        self.folders.append(folder)
        found, left_out = self._peeked.pop(folder) if folder in self._peeked else self._scan(folder)
        for what, names in left_out.items():
            self.left_out.setdefault(what, []).extend(names)
        return found

    def _scan(self, folder: Path) -> tuple[Listing, dict[LeftOut, Names]]:
        found, left_out = Listing(), dict[LeftOut, Names]()
        with os.scandir(folder) as entries:
            for entry in entries:
                self._count()
                path = folder / entry.name
                if is_of_a_system(entry.name):
                    left_out.setdefault(SYSTEM, []).append(self.name(path))
                elif (kind := _kind(entry)) == "folder":
                    found.folders.append(path)
                elif kind is None:
                    left_out.setdefault(SPECIAL, []).append(self.name(path))
                elif self._is_image(path):
                    found.images.append(path)
                else:
                    found.others.append(path)
        for paths in (found.images, found.folders, found.others):
            paths.sort(key=lambda path: path.name)
        return found, left_out

    def _count(self) -> None:
        self._entries += 1
        if self._limits is not None and self._entries > self._limits.entries:
            raise TooManyEntriesError(f"has more than {self._limits.entries:,} files and folders")

    def _is_image(self, path: Path) -> bool:
        by_name = is_image_by_name(path)
        if by_name is not None:
            return by_name
        if path not in self._opened:
            if self._limits is not None and len(self._opened) >= self._limits.opened:
                self.unopened.add(path)
                return True
            self._opened[path] = _begins_as_an_image(path)
        return self._opened[path]

    def leave_out(self, what: LeftOut, *paths: Path) -> None:
        if paths:
            self.left_out.setdefault(what, []).extend(self.name(path) for path in paths)

    def name(self, path: Path) -> str:
        return name_of(path, self.root)

    @property
    def place(self) -> str:
        """The name of the root."""
        return place(self.root)

    def notes(self) -> tuple[str, ...]:
        order = sorted(self.left_out.items(), key=lambda item: item[0] != NOT_IMAGES)
        notes = [f"{counted(len(names), *what)} left out: {listed(sorted(names))}" for what, names in order]
        if self.unopened:
            files = counted(
                len(self.unopened), "more file without a suffix counts", "more files without a suffix count"
            )
            notes.append(f"{files} as images here; the first trial opens them")
        return tuple(notes)


class TooManyEntriesError(Exception):
    """More would have to be listed or opened than is allowed. The message continues the name of the folder."""


def status_of(status: os.stat_result) -> Status:
    return status.st_size, status.st_mtime_ns


def place(path: Path) -> str:
    """A path as text of one line."""
    return quoted(shown(str(path)))


def describe(listing: Listing) -> str:
    """What is in a folder, such as `2 folders (a, b), 5 images`."""
    names = [quoted(shown(folder.name)) for folder in listing.folders]
    foreign = list(filter(is_foreign, listing.others))
    suffixes = ", ".join(sorted({path.suffix.lower() for path in foreign}))
    others = len(listing.others) - len(foreign)
    counts = [
        f"{counted(len(names), 'folder')} ({listed(names)})" if names else "no folders",
        counted(len(listing.images), "image") if listing.images else "no images",
        *([f"{counted(len(foreign), 'image')} in formats that cannot be read ({suffixes})"] if foreign else []),
        *([counted(others, "other file")] if others else []),
    ]
    return ", ".join(counts)


def name_of(path: Path, root: Path) -> str:
    return quoted(shown(path.relative_to(root).as_posix()))


def is_foreign(path: Path) -> bool:
    return path.suffix.lower() in FOREIGN_SUFFIXES


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file"] | None:
    """What it is, or what a link leads to. None for neither, and for a link in a circle."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise


def is_of_a_system(name: str) -> bool:
    """Whether a file or folder is hidden, or one that an operating system has added."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def is_image_by_name(path: Path) -> bool | None:
    """By its suffix; None without one. A suffix without letters belongs to the name."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES if re.search("[a-z]", suffix) else None


def _begins_as_an_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return SIGNATURES.match(file.read(SIGNATURE_BYTES)) is not None
    except OSError:
        return True  # who decodes it reports why it cannot be read
