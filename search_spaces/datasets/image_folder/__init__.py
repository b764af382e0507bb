"""Image folder: images of a user's own in class folders.

Owns the spec. `layout` finds the images, `reader` turns them into arrays, and `pictures` decodes one; the service
imports only the first two, which need neither numpy nor Pillow until something is decoded.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from search_spaces.datasets.base import DataCheck, DataError, DatasetReader, DatasetSpec, DataUnavailableError
from search_spaces.datasets.image_folder import checks
from search_spaces.datasets.image_folder.in_bucket import ImageBucketReader, listed_objects
from search_spaces.datasets.image_folder.layout import find_images, is_absent
from search_spaces.datasets.image_folder.listing import Limits, TooManyEntriesError
from search_spaces.datasets.image_folder.reader import ImageFolderReader
from search_spaces.domains import Integer, Number
from search_spaces.problems import Problem, shorten
from search_spaces.storage.addresses import bucket_of, forms, is_in_bucket

#: Gray levels that transparent pixels are drawn on.
BACKGROUNDS = {"white": 255, "gray": 128, "black": 0}
#: Of a check of a spec, for which a person waits. An opened file may take a millisecond on a file server.
LIMITS = Limits(entries=20_000, opened=2_000)


def _inside_root(path: str) -> str:
    if is_in_bucket(path):
        try:
            return bucket_of(path).address()
        except ValueError as error:
            raise PydanticCustomError("data_path", "{rule}", {"rule": str(error)}) from None
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\x00" in path:
        raise PydanticCustomError(
            "data_path",
            "must be a relative path without '..' inside the workers' data root, or {forms}",
            {"forms": forms()},
        )
    return path


#: `gray` is accepted; stored specs and results have `grey`.
Color = Annotated[
    Literal["rgb", "grey"],
    BeforeValidator(
        lambda value: "grey" if value == "gray" else value, json_schema_input_type=Literal["rgb", "grey", "gray"]
    ),
]


def _ascending(value: tuple[float, ...]) -> tuple[float, ...]:
    if value[0] >= value[1]:
        raise PydanticCustomError("value_range", "must be two numbers, the smaller one first")
    return value


ValueRange = Annotated[tuple[Number, ...], Field(min_length=2, max_length=2), AfterValidator(_ascending)]


class ImageFolder(DatasetSpec):
    """Images in `path/<class>/<file>`, resized to squares of `size` pixels.

    If `path/train` exists, it holds the class folders; `path/val` (or `valid`, `validation`) and `path/test` beside it
    are the validation and the test set. Without a validation folder, `validation_fraction` of the training set is held
    out; without a test folder, `test_fraction` of each class becomes the test set, chosen by a hash of the file names,
    the same for every seed. In a bucket, `/` in the names of objects separates folders.
    """

    input_note: ClassVar[str] = "The classes are in the order of the folders' names."
    name: Literal["image_folder"] = "image_folder"
    path: Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_inside_root)] = Field(
        description="Folder of the images, relative to the workers' data root, or in a bucket: `s3://bucket/path`, "
        "`gs://bucket/path` or `az://container/path`."
    )
    size: Annotated[Integer, Field(ge=8, le=512)] = Field(
        64, description="Side of the images after resizing, in pixels."
    )
    color: Color = Field(
        "rgb",
        description="Number of channels that images are converted to: three for `rgb`, one for `grey` (or `gray`).",
    )
    test_fraction: Annotated[Number, Field(gt=0, le=0.5)] = Field(
        0.1, description="Share of each class that becomes the test set if there is no folder `test`."
    )
    mirror_safe: Annotated[bool, Field(strict=True)] = Field(
        False, description="Whether a mirrored image keeps its label. If so, images are mirrored by default."
    )
    value_range: ValueRange | None = Field(
        None,
        description="Values that become black and white in images that are not 8-bit (16 or 32 bits, signed, "
        "float); default: measured in the training set.",
    )
    background: Literal["white", "gray", "black"] = Field(
        "white", description="Color that transparent pixels are drawn on."
    )
    damaged: Literal["fail", "skip"] = Field(
        "fail",
        description="What follows from images that cannot be read: `fail` ends the experiment and names them, `skip` "
        "leaves them out and reports them.",
    )
    reader_version: Literal[1, 2] = Field(
        2,
        description="How files are found and decoded. 1 is how version 0.1 did it, for experiments that it began: no "
        "validation folder, and neither `value_range` nor `background`.",
    )

    @model_validator(mode="after")
    def _known_to_its_reader(self) -> ImageFolder:
        given = [
            name
            for name in ("value_range", "background")
            if getattr(self, name) != type(self).model_fields[name].default
        ]
        if self.reader_version == 1 and given:
            raise PydanticCustomError(
                "reader_version", "must not have {given} with reader_version 1", {"given": " and ".join(given)}
            )
        return self

    @property
    def background_level(self) -> int:
        return BACKGROUNDS[self.background]

    @property
    def address(self) -> str | None:
        return self.path if is_in_bucket(self.path) else None

    def reader(self, data_root: Path) -> DatasetReader:
        return ImageFolderReader(self, data_root) if self.address is None else ImageBucketReader(self)

    def folder(self, data_root: Path) -> Path | None:
        return data_root / self.path if self.address is None else None

    def check(self, data_root: Path) -> DataCheck:
        if self.address is not None:
            return self._check_bucket()
        folder = data_root / self.path
        if is_absent(folder):
            return DataCheck((Problem("dataset.path", f"must be a folder in {data_root}", shorten(self.path)),))
        if self.reader_version == 1:
            return DataCheck()
        try:
            found = find_images(folder, self.test_fraction, LIMITS)
        except DataError as error:
            problem = Problem("dataset.path", f"must be a folder of images in classes: {error}", self.path)
            if not isinstance(error, DataUnavailableError):
                return DataCheck((problem,))
            note = f"dataset: {self.path} was not checked on the service's machine: {error}; the first trial checks it"
            return DataCheck((problem,), (note,), local=True)
        except TooManyEntriesError as error:
            return DataCheck(notes=(f"dataset: {self.path} {error}; the first trial checks it",))
        return DataCheck(notes=tuple(f"dataset: {note}" for note in checks.notes(found, self.validation_fraction)))

    def _check_bucket(self) -> DataCheck:
        """Whether the bucket can be listed; the first trial looks at the objects."""
        try:
            listed_objects(bucket_of(self.path), most=1)
        except DataUnavailableError as error:
            note = f"dataset: {self.path} was not checked on the service's machine: {error}; the first trial checks it"
            return DataCheck(
                (Problem("dataset.path", f"must be in a bucket: {error}", self.path),), (note,), local=True
            )
        return DataCheck(notes=(f"dataset: the images in {self.path} are checked by the first trial",))

    @property
    def image_side(self) -> int | None:
        return self.size

    def keeps_labels_mirrored(self) -> bool:
        return self.mirror_safe

    def usual_augmentation(self) -> dict[str, Any]:
        """Mirroring, if it is declared to be safe: a folder may hold characters or signs."""
        return {"horizontal_flip": 0.5} if self.mirror_safe else {}
