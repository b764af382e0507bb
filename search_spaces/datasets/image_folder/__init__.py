"""Image folder: images of a user's own in class folders.

Owns the spec and the reader. `layout` finds the images, and `pictures`, imported when the reader decodes, opens them.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from search_spaces.datasets.base import DataError, DatasetReader, DatasetSpec, Destination
from search_spaces.datasets.image_folder.layout import find_images, listed
from search_spaces.domains import Integer, Number
from search_spaces.problems import Problem

DECODING = 2  # raise it when equal files of an equal spec decode to other pixels
MAX_SIDES_RATIO = 3.0  # beyond it, resizing to a square distorts what is seen

log = logging.getLogger(__name__)


def _inside_root(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\x00" in path:
        raise PydanticCustomError(
            "data_path",
            "must be a relative path without '..' inside the workers' data root",
        )
    return path


#: `gray` is accepted; stored specs and results have `grey`.
Color = Annotated[
    Literal["rgb", "grey"],
    BeforeValidator(
        lambda value: "grey" if value == "gray" else value, json_schema_input_type=Literal["rgb", "grey", "gray"]
    ),
]


class ImageFolder(DatasetSpec):
    """Images in `path/<class>/<file>`, resized to squares of `size` pixels.

    If `path/train` and `path/test` exist, they are the two sets; otherwise `test_fraction` of each class becomes the
    test set, chosen by a hash of the file names, the same for every seed.
    """

    input_note: ClassVar[str] = "The classes are in the order of the folders' names."
    name: Literal["image_folder"] = "image_folder"
    path: Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_inside_root)] = Field(
        description="Folder of the images, relative to the workers' data root."
    )
    size: Annotated[Integer, Field(ge=8, le=512)] = Field(
        64, description="Side of the images after resizing, in pixels."
    )
    color: Color = Field(
        "rgb",
        description="Number of channels that images are converted to: three for `rgb`, one for `grey` (or `gray`).",
    )
    test_fraction: Annotated[Number, Field(gt=0, le=0.5)] = Field(
        0.1, description="Share of each class that becomes the test set if there are no folders `train` and `test`."
    )
    mirror_safe: Annotated[bool, Field(strict=True)] = Field(
        False, description="Whether a mirrored image keeps its label. If so, images are mirrored by default."
    )

    def reader(self, data_root: Path) -> DatasetReader:
        return ImageFolderReader(self, data_root)

    def problems(self, data_root: Path) -> Iterator[Problem]:
        if not (data_root / self.path).is_dir():
            yield Problem("dataset.path", f"must be a folder in {data_root}", self.path)

    def keeps_labels_mirrored(self) -> bool:
        return self.mirror_safe

    def usual_augmentation(self) -> dict[str, Any]:
        """Mirroring, if it is declared to be safe: a folder may hold characters or signs."""
        return {"horizontal_flip": 0.5} if self.mirror_safe else {}


class ImageFolderReader:
    """Lists the images when it is made and opens none. Raises DataError for an absent folder or one without classes."""

    def __init__(self, spec: ImageFolder, data_root: Path) -> None:
        self._spec = spec
        self._found = find_images(data_root / spec.path, spec.test_fraction)

    @property
    def replaces(self) -> str | None:
        return str(self._found.root.resolve())

    def identity(self) -> list[Any]:
        """The files' names, sizes and times of change, and how they are resized."""
        files = hashlib.sha256()
        for part, images in self._found.parts.items():
            for label, path in images:
                status = path.stat()
                name = self._found.name(path)
                files.update(f"{part}\0{label}\0{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        names = list(self._found.class_names)
        return ["image_folder", DECODING, self._spec.size, self._spec.color, names, files.hexdigest()]

    def decode(self, destination: Destination, *, download: bool) -> dict[str, Any]:
        """Raises DataError that lists every file that cannot be read."""
        from search_spaces.datasets.image_folder.pictures import describe
        from search_spaces.datasets.image_folder.reading import Damaged, read_pictures

        size, channels = self._spec.size, 3 if self._spec.color == "rgb" else 1
        description = describe(size, size, channels, value_range=(0, 65535))
        damaged: list[str] = []
        shapes: dict[str, tuple[int, int]] = {}
        for part, files in self._found.parts.items():
            images = destination.create_array(f"{part}_images", (len(files), channels, size, size), "uint8")
            labels = destination.create_array(f"{part}_labels", (len(files),), "int64")
            labels[:] = [label for label, _ in files]
            paths = [path for _, path in files]
            for index, picture in enumerate(read_pictures(paths, description)):
                name = self._found.name(paths[index])
                if isinstance(picture, Damaged):
                    damaged.append(f"{name} ({picture.reason})")
                else:
                    assert picture.pixels is not None
                    images[index], shapes[name] = picture.pixels, picture.shape
        root = self._found.root
        if damaged:
            raise DataError(
                f"image_folder: {len(damaged)} damaged images in {root}: {listed(damaged)}; repair or remove them"
            )
        notes = [*self._found.notes, *_unusual(shapes)]
        for note in notes:
            log.warning("image_folder %s: %s", root, note)
        return {"class_names": list(self._found.class_names), "notes": notes, "decoding": description}


def _unusual(shapes: dict[str, tuple[int, int]]) -> Iterator[str]:
    """A note about images of unusual size: nine of ten others share one size, or the sides of the image differ by more
    than MAX_SIDES_RATIO."""
    common, count = Counter(shapes.values()).most_common(1)[0]
    uniform = count >= 0.9 * len(shapes)
    unusual = [
        f"{name} ({w}x{h})"
        for name, (w, h) in shapes.items()
        if (uniform and (w, h) != common) or max(w, h) > MAX_SIDES_RATIO * min(w, h)
    ]
    if unusual:
        yield f"{len(unusual)} images of unusual size were resized like the others: {listed(unusual)}"
