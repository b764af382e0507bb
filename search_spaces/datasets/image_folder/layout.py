"""Layout: which files below a folder are images, and the class and the part that each belongs to.

    <class>/<file>                                  the test set is a share of each class
    train/<class>/<file>  val/...  test/...         each folder is a part; `val` and `test` may be absent

Owns the names of parts and masks, and the sentences on layouts. `listing` has what is in one folder. It must not know
how images are decoded.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from search_spaces.datasets.base import DataError, DataUnavailableError
from search_spaces.datasets.image_folder.listing import (
    FOREIGN,
    MASKS,
    NESTED,
    NOT_IMAGES,
    OUTSIDE,
    SUFFIXES,
    UNKNOWN,
    Limits,
    Listing,
    Search,
    TooManyEntriesError,
    describe,
    is_foreign,
    name_of,
    place,
)
from search_spaces.datasets.shares import held_out
from search_spaces.phrases import listed, quoted, shown

#: Part -> names of its folder, in lower case.
PART_NAMES = {
    "train": frozenset({"train", "training"}),
    "validation": frozenset({"val", "valid", "validation"}),
    "test": frozenset({"test", "testing"}),
}
#: The stem of a mask, after that of its image: `scan 7_mask.png`, `scan 7_mask_1.png`.
MASK = re.compile(r"(?P<image>.+)[ _.-](masks?|seg|segmentation|labels?|gt|ground_?truth)([ _-]?\d+)?", re.IGNORECASE)
MASK_FOLDERS = frozenset({"masks", "annotations", "segmentations", "labels", "ground_truth", "groundtruth"})
#: Of errors that say that no folder has this name. Others leave it open: access is denied, a connection is lost.
ABSENT_ERRNOS = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP})
EXPECTED = "images must be in <class>/<file>, or in train/<class>/<file> with val/ and test/ beside train/"


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
        return name_of(path, self.root)

    def counts(self, part: str) -> list[int]:
        """The number of images of each class in a part."""
        labels = Counter(label for label, _ in self.parts[part])
        return [labels[label] for label in range(len(self.class_names))]


def find_images(root: Path, test_fraction: float, limits: Limits | None = None) -> FoundImages:
    """The images of a folder.

    Raises DataError for a layout that is not one of those above, DataUnavailableError where the folder is absent, empty
    or cannot be listed, TooManyEntriesError where `limits` leave it open.
    """
    search = Search(root, limits)
    try:
        return _find(root, test_fraction, search)
    except DataError as error:
        if limits is None or not search.unopened:
            raise
        raise TooManyEntriesError(f"has more than {limits.opened:,} files without a suffix") from error
    except OSError as error:
        named = place(Path(os.fsdecode(error.filename or root)))
        raise DataUnavailableError(f"image_folder: {named} cannot be listed ({error.strerror})") from error


def is_absent(folder: Path) -> bool:
    """Whether there is certainly no such folder. One that this process may not look at may be there."""
    try:
        return not stat.S_ISDIR(os.stat(folder).st_mode)
    except OSError as error:
        return error.errno in ABSENT_ERRNOS
    except ValueError:  # a name that cannot be encoded
        return True


def _find(root: Path, test_fraction: float, search: Search) -> FoundImages:
    if is_absent(root):
        raise DataUnavailableError(
            f"image_folder: there is no folder {search.place}; put images into {search.place}/<class>/<file>"
        )
    top = search.list(root)
    if top == Listing() and not search.left_out:  # such as the folder of a mount that is missing
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
        parts["train"], parts["test"] = _without_test(parts["train"], test_fraction)
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


def _part_folders(search: Search, top: Listing) -> dict[str, Path]:
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
            raise DataError(f"image_folder: {search.place} has {describe(top)} but no folder train; {EXPECTED}")
        return {}
    inner = search.peek(found["train"])
    if inner.folders and (len(found) > 1 or not inner.images):
        return found
    if others and inner.images and all(search.peek(folder).images for folder in others):
        return {}  # a class of that name
    train = place(found["train"])
    raise DataError(f"image_folder: {train} must have class folders (got {describe(inner)}); {EXPECTED}")


Labeled = list[tuple[int, Path]]


def _read_classes(search: Search, root: Path, top: Listing) -> tuple[tuple[str, ...], Labeled]:
    """The names of the classes in a folder, and their images."""
    if len(top.folders) < 2:
        hint = ""
        if len(top.folders) == 1:
            inner = search.peek(top.folders[0])
            hint = f"; {search.name(top.folders[0])} has {describe(inner)}" if inner.folders else ""
        raise DataError(
            f"image_folder: {place(root)} must have at least two class folders (got {describe(top)}{hint}); {EXPECTED}"
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
            advice = "convert them to PNG or JPEG; " if any(map(is_foreign, inner.others)) else ""
            raise DataError(
                f"image_folder: no images in the class folder {place(folder)} (got {describe(inner)}); {advice}"
                f"known: {sorted(SUFFIXES)}"
            )
        images += [(label, path) for path in found]
    return tuple(names), images


def _read_parts(search: Search, folders: dict[str, Path]) -> tuple[dict[str, Labeled], tuple[str, ...]]:
    top = search.list(folders["train"])
    names, images = _read_classes(search, folders["train"], top)
    search.leave_out(OUTSIDE, *top.images)
    parts = {"train": images}
    labels = {name: label for label, name in enumerate(names)}
    for part, folder in folders.items():
        if part == "train":
            continue
        listing = search.list(folder)
        parts[part] = []
        for class_folder in listing.folders:
            found, name = _images_of_class(search, class_folder), shown(class_folder.name)
            if name in labels:
                parts[part] += [(labels[name], path) for path in found]
            elif found:
                raise DataError(
                    f"image_folder: the class {quoted(name)} of {place(folder)} must be one of the classes of "
                    f"train ({listed(map(quoted, names))})"
                )
        if not parts[part]:
            raise DataError(
                f"image_folder: {place(folder)} must have images in class folders (got {describe(listing)}); "
                f"without a folder {folder.name}, a share of the training images is the {part} set"
            )
        search.leave_out(OUTSIDE, *listing.images)
        parts[part].sort(key=lambda item: item[0])
    return parts, names


def _images_of_class(search: Search, folder: Path) -> list[Path]:
    """The images of a class. Everything else in its folder is left out."""
    found = search.list(folder)
    stems = {path.stem for path in found.images}
    masks = [path for path in found.images if (match := MASK.fullmatch(path.stem)) and match["image"] in stems]
    search.leave_out(MASKS, *masks)
    search.leave_out(FOREIGN, *filter(is_foreign, found.others))
    search.leave_out(NOT_IMAGES, *(path for path in found.others if not is_foreign(path)))
    search.leave_out(NESTED, *found.folders)
    left_out = set(masks)
    return [path for path in found.images if path not in left_out]


def _suspicious_classes(search: Search, top: Listing) -> list[str]:
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


def _without_test(images: Labeled, fraction: float) -> tuple[Labeled, Labeled]:
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


def _summary(search: Search, folders: dict[str, Path], test_fraction: float) -> str:
    if not folders:
        return f"the folders are classes; {test_fraction:.4g} of each class is the test set, chosen by file names"
    named = ", ".join(f"{search.name(folder)} is the {part} set" for part, folder in folders.items())
    missing = [] if "test" in folders else [f"{test_fraction:.4g} of each class of train is the test set"]
    if "validation" in folders:
        missing.append("validation_fraction is not used")
    return "; ".join([named, *missing])
