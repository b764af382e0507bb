"""Layout: which files below a folder are images, and the class and the part that each belongs to.

    <class>/<file>                                  the test set is a share of each class
    train/<class>/<file>  val/...  test/...         each folder is a part; `val` and `test` may be absent

Owns what is read as an image, what is left out, and the sentences that say so. Names decide; only files without a
suffix are opened, once, for their first bytes. It must not know how images are decoded.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from search_spaces.datasets.base import DataError, DataUnavailableError
from search_spaces.datasets.shares import held_out
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
#: Part -> names of its folder, in lower case.
PART_NAMES = {
    "train": frozenset({"train", "training"}),
    "validation": frozenset({"val", "valid", "validation"}),
    "test": frozenset({"test", "testing"}),
}
#: The stem of a mask, after that of its image: `scan 7_mask.png`, `scan 7_mask_1.png`.
MASK = re.compile(r"(?P<image>.+)[ _.-](masks?|seg|segmentation|labels?|gt|ground_?truth)([ _-]?\d+)?", re.IGNORECASE)
MASK_FOLDERS = frozenset({"masks", "annotations", "segmentations", "labels", "ground_truth", "groundtruth"})
EXPECTED = "images must be in <class>/<file>, or in train/<class>/<file> with val/ and test/ beside train/"


@dataclass(frozen=True)
class Limits:
    """Of the work of one search. A file or folder counts each time that it is listed."""

    entries: int
    opened: int


@dataclass(frozen=True)
class FoundImages:
    """`parts` holds, for "train", "test" and perhaps "validation", (class index, path) in a fixed order.

    `summary` is one sentence on the layout; `notes` are for a person. `folders` are all folders that were listed.
    """

    root: Path
    class_names: tuple[str, ...]
    parts: dict[str, tuple[tuple[int, Path], ...]]
    summary: str
    notes: tuple[str, ...]
    folders: tuple[Path, ...]

    def name(self, path: Path) -> str:
        return _name(path, self.root)

    def counts(self, part: str) -> list[int]:
        """The number of images of each class in a part."""
        labels = Counter(label for label, _ in self.parts[part])
        return [labels[label] for label in range(len(self.class_names))]


@dataclass
class _Listing:
    """What is directly in a folder, sorted by name."""

    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


class _Search:
    """Lists folders, and keeps what was left out. Raises TooManyEntriesError beyond the limit of entries.

    Files without a suffix are opened up to their limit; further ones are in `unopened` and count as images.
    """

    def __init__(self, root: Path, limits: Limits | None) -> None:
        self.root = root
        self.folders: list[Path] = []
        self.left_out: dict[LeftOut, list[str]] = {}
        self.unopened: set[Path] = set()
        self._limits = limits
        self._entries = 0
        self._opened: dict[Path, bool] = {}  # whether they begin like an image

    def peek(self, folder: Path) -> _Listing:
        """What is in a folder, without keeping what was left out."""
        kept = self.folders, self.left_out
        self.folders, self.left_out = [], {}
        try:
            return self.list(folder)
        finally:
            self.folders, self.left_out = kept

    def list(self, folder: Path) -> _Listing:
        found = _Listing()
        self.folders.append(folder)
        with os.scandir(folder) as entries:
            for entry in entries:
                self._count()
                path = folder / entry.name
                if entry.name.startswith(".") or entry.name.lower() in SYSTEM_NAMES:
                    self.leave_out(SYSTEM, path)
                elif (kind := _kind(entry)) == "folder":
                    found.folders.append(path)
                elif kind is None:
                    self.leave_out(SPECIAL, path)
                elif self._is_image(path):
                    found.images.append(path)
                else:
                    found.others.append(path)
        for paths in (found.images, found.folders, found.others):
            paths.sort(key=lambda path: path.name)
        return found

    def _count(self) -> None:
        self._entries += 1
        if self._limits is not None and self._entries > self._limits.entries:
            raise TooManyEntriesError(f"has more than {self._limits.entries:,} files and folders")

    def _is_image(self, path: Path) -> bool:
        by_name = _is_image_by_name(path)
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
        return _name(path, self.root)

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


#: What was left out, as notes say it of one and of several.
LeftOut = tuple[str, str]
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


def find_images(root: Path, test_fraction: float, limits: Limits | None = None) -> FoundImages:
    """The images of a folder.

    Raises DataError for a layout that is not one of those above, DataUnavailableError where the folder is absent, empty
    or cannot be listed, TooManyEntriesError where `limits` leave it open.
    """
    search = _Search(root, limits)
    try:
        return _find(root, test_fraction, search)
    except DataError as error:
        if limits is None or not search.unopened:
            raise
        raise TooManyEntriesError(f"has more than {limits.opened:,} files without a suffix") from error
    except OSError as error:
        named = place(Path(os.fsdecode(error.filename or root)))
        raise DataUnavailableError(f"image_folder: {named} cannot be listed ({error.strerror})") from error


def place(path: Path) -> str:
    """A path as text of one line."""
    return quoted(shown(str(path)))


def _find(root: Path, test_fraction: float, search: _Search) -> FoundImages:
    if not os.path.isdir(root):  # unlike Path.is_dir, False also where it cannot be looked at
        raise DataUnavailableError(
            f"image_folder: there is no folder {search.place}; put images into {search.place}/<class>/<file>"
        )
    top = search.list(root)
    if top == _Listing() and not search.left_out:  # such as the folder of a mount that is missing
        raise DataUnavailableError(f"image_folder: {search.place} is empty; {EXPECTED}")
    folders = _part_folders(search, top)
    notes: list[str] = []
    if folders:
        parts, names = _read_parts(search, folders)
        known = set(folders.values())
        search.leave_out(UNKNOWN, *(folder for folder in top.folders if folder not in known))
    else:
        notes += _suspicious_classes(search, top)
        names, images = _read_classes(search, root, top)
        parts = {"train": images}
    notes += _similar_classes(names)
    search.leave_out(OUTSIDE, *top.images)
    summary = _summary(search, folders, test_fraction)
    if "test" not in parts:
        parts["train"], parts["test"] = without_test(parts["train"], test_fraction)
        if not parts["test"]:
            raise DataError(
                f"image_folder: {search.place} must have a class of at least two images, one of them for the test "
                f"set (got one image in each of {len(names)} classes)"
            )
    if "validation" not in parts and len(parts["train"]) == len({label for label, _ in parts["train"]}):
        raise DataError(
            f"image_folder: {search.place} must have a class of at least two training images, one of them for the "
            f"validation set (got one in each of {len(names)} classes)"
        )
    reported = [summary] if len(folders) not in (0, 2) or "validation" in folders else []
    return FoundImages(
        root,
        names,
        {part: tuple(parts[part]) for part in PART_NAMES if part in parts},
        summary,
        (*search.notes(), *reported, *notes),
        tuple(search.folders),
    )


def _part_folders(search: _Search, top: _Listing) -> dict[str, Path]:
    """Part -> its folder; empty where the folders are classes."""
    found: dict[str, Path] = {}
    for part, names in PART_NAMES.items():
        folders = [folder for folder in top.folders if folder.name.lower() in names]
        if len(folders) > 1 and any(folder.name.lower() in PART_NAMES["train"] for folder in top.folders):
            raise DataError(
                f"image_folder: {search.place} must have one folder for the {part} set "
                f"(got {listed(search.name(folder) for folder in folders)})"
            )
        if folders:
            found[part] = folders[0]
    others = [folder for folder in top.folders if folder not in found.values()]
    if "train" not in found:
        if found and not others:
            raise DataError(f"image_folder: {search.place} has {_found(top)} but no folder train; {EXPECTED}")
        return {}
    inner = search.peek(found["train"])
    if inner.folders and (len(found) > 1 or not inner.images):
        return found
    if others and inner.images and all(search.peek(folder).images for folder in others):
        return {}  # a class of that name
    train = place(found["train"])
    raise DataError(f"image_folder: {train} must have class folders (got {_found(inner)}); {EXPECTED}")


Labeled = list[tuple[int, Path]]


def _read_classes(search: _Search, root: Path, top: _Listing) -> tuple[tuple[str, ...], Labeled]:
    """The names of the classes in a folder, and their images."""
    if len(top.folders) < 2:
        hint = ""
        if len(top.folders) == 1:
            inner = search.peek(top.folders[0])
            hint = f"; {search.name(top.folders[0])} has {_found(inner)}" if inner.folders else ""
        raise DataError(
            f"image_folder: {place(root)} must have at least two class folders (got {_found(top)}{hint}); {EXPECTED}"
        )
    names: dict[str, Path] = {}
    images: Labeled = []
    for label, folder in enumerate(top.folders):
        same = names.setdefault(shown(folder.name), folder)
        if same is not folder:
            raise DataError(
                f"image_folder: {place(root)} has two folders whose names look the same, "
                f"{quoted(shown(folder.name))}; move their images into one, or rename one"
            )
        found = _images_of_class(search, folder)
        if not found:
            inner = search.peek(folder)
            advice = "convert them to PNG or JPEG; " if any(map(_is_foreign, inner.others)) else ""
            raise DataError(
                f"image_folder: no images in the class folder {place(folder)} (got {_found(inner)}); {advice}"
                f"known: {sorted(SUFFIXES)}"
            )
        images += [(label, path) for path in found]
    return tuple(names), images


def _read_parts(search: _Search, folders: dict[str, Path]) -> tuple[dict[str, Labeled], tuple[str, ...]]:
    top = search.list(folders["train"])
    names, images = _read_classes(search, folders["train"], top)
    search.leave_out(OUTSIDE, *top.images)
    parts = {"train": images}
    for part, folder in folders.items():
        if part == "train":
            continue
        listing = search.list(folder)
        parts[part] = []
        for class_folder in listing.folders:
            found, name = _images_of_class(search, class_folder), shown(class_folder.name)
            if name in names:
                parts[part] += [(names.index(name), path) for path in found]
            elif found:
                raise DataError(
                    f"image_folder: the class {quoted(name)} of {place(folder)} must be one of the classes of "
                    f"train ({listed(map(quoted, names))})"
                )
        if not parts[part]:
            raise DataError(
                f"image_folder: {place(folder)} must have images in class folders (got {_found(listing)}); "
                f"without a folder {folder.name}, a share of the training images is the {part} set"
            )
        search.leave_out(OUTSIDE, *listing.images)
        parts[part].sort(key=lambda item: item[0])
    return parts, names


def _images_of_class(search: _Search, folder: Path) -> list[Path]:
    """The images of a class. Everything else in its folder is left out."""
    found = search.list(folder)
    stems = {path.stem for path in found.images}
    masks = [path for path in found.images if (match := MASK.fullmatch(path.stem)) and match["image"] in stems]
    search.leave_out(MASKS, *masks)
    search.leave_out(FOREIGN, *filter(_is_foreign, found.others))
    search.leave_out(NOT_IMAGES, *(path for path in found.others if not _is_foreign(path)))
    search.leave_out(NESTED, *found.folders)
    return [path for path in found.images if path not in set(masks)] if masks else found.images


def _suspicious_classes(search: _Search, top: _Listing) -> list[str]:
    """A note on folders that are read as classes, but have the name of something else."""
    suspicious = MASK_FOLDERS.union(*PART_NAMES.values())
    names = [search.name(folder) for folder in top.folders if folder.name.lower() in suspicious]
    if not names:
        return []
    if len(names) == 1:
        return [f"the folder {names[0]} is read as a class; move it away unless it is one"]
    return [f"the folders {listed(names)} are read as classes; move them away unless they are"]


def _similar_classes(names: tuple[str, ...]) -> list[str]:
    """A note on names that a person may take for the same."""
    similar: dict[str, list[str]] = {}
    for name in names:
        similar.setdefault(name.strip().casefold(), []).append(quoted(name))
    same = [" = ".join(group) for group in similar.values() if len(group) > 1]
    if not same:
        return []
    return [f"classes whose names differ only in case or white space are several classes: {listed(same)}"]


def without_test(images: Labeled, fraction: float) -> tuple[Labeled, Labeled]:
    """The training images, and the test share of each class."""
    by_class: dict[int, list[Path]] = {}
    for label, path in images:
        by_class.setdefault(label, []).append(path)
    test = frozenset().union(*(_held_out(paths, fraction) for paths in by_class.values()))
    return [item for item in images if item[1] not in test], [item for item in images if item[1] in test]


def _held_out(files: list[Path], fraction: float) -> frozenset[Path]:
    """The test share of one class, chosen by the files' names: a new file seldom moves an old one to the other part."""
    count = held_out(len(files), fraction)
    return frozenset(sorted(files, key=lambda path: hashlib.sha256(os.fsencode(path.name)).digest())[:count])


def _summary(search: _Search, folders: dict[str, Path], test_fraction: float) -> str:
    if not folders:
        return f"the folders are classes; {test_fraction:.4g} of each class is the test set, chosen by file names"
    named = ", ".join(f"{search.name(folder)} is the {part} set" for part, folder in folders.items())
    missing = [] if "test" in folders else [f"{test_fraction:.4g} of each class of train is the test set"]
    if "validation" in folders:
        missing.append("validation_fraction is not used")
    return "; ".join([named, *missing])


def _found(listing: _Listing) -> str:
    """What is in a folder, such as `2 folders (a, b), 5 images`."""
    names = [quoted(shown(folder.name)) for folder in listing.folders]
    foreign = list(filter(_is_foreign, listing.others))
    suffixes = ", ".join(sorted({path.suffix.lower() for path in foreign}))
    others = len(listing.others) - len(foreign)
    counts = [
        f"{counted(len(names), 'folder')} ({listed(names)})" if names else "no folders",
        counted(len(listing.images), "image") if listing.images else "no images",
        *([f"{counted(len(foreign), 'image')} in formats that cannot be read ({suffixes})"] if foreign else []),
        *([counted(others, "other file")] if others else []),
    ]
    return ", ".join(counts)


def _name(path: Path, root: Path) -> str:
    return quoted(shown(path.relative_to(root).as_posix()))


def _is_foreign(path: Path) -> bool:
    return path.suffix.lower() in FOREIGN_SUFFIXES


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file"] | None:
    """What it is, or what a link leads to. None for neither, and for a link in a circle."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise


def _is_image_by_name(path: Path) -> bool | None:
    """By its suffix; None without one. A suffix without letters belongs to the name."""
    suffix = path.suffix.lower()
    return suffix in SUFFIXES if re.search("[a-z]", suffix) else None


def _begins_as_an_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return SIGNATURES.match(file.read(SIGNATURE_BYTES)) is not None
    except OSError:
        return True  # who decodes it reports why it cannot be read
