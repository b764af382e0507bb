"""The data set: the seam between a kind of files and the code that caches, splits and trains on them.

Owns what a spec says of a data set, what its reader promises, and the error that reading raises. It must not know any
data set by name, how arrays are cached or how the training set is split.
`tests/support/contracts/dataset_reader.py` is the contract of a reader.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, runtime_checkable

from pydantic import Field

from search_spaces.domains import Number
from search_spaces.problems import Problem
from search_spaces.spec import Spec

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray


class DataError(Exception):
    """The data cannot be read. The message says which data set, where it was looked for and what to do."""


class DataUnavailableError(DataError):
    """The data cannot be reached from this node: files are absent or unreadable here, or its cache cannot be written.

    Other nodes may be able to; a defect that a reader finds in the data itself is a plain DataError.
    """


@dataclass(frozen=True)
class DataCheck:
    """What was found of a data set before anything of it is decoded. A spec with `problems` cannot be used; their paths
    are from its root. `notes` are what a person should know, one sentence each. `local`: the problems may be those of
    the machine on which this was found, and `notes` say so for a person whose data are read on another one."""

    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    local: bool = False


class Destination(Protocol):
    """Where a reader writes."""

    @property
    def scratch(self) -> Path:
        """A folder for temporary files. It is deleted after decoding."""

    def create_array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A new array to be filled, backed by a file."""


class DatasetReader(Protocol):
    """A data set, found but not yet read. Making a reader looks for files and opens none.

    Every method raises DataError for what a person can put right in the data, DataUnavailableError for what another
    node may be able to read. Other exceptions are turned into one of them by the caller, so that whatever goes wrong
    with data is a data error.
    """

    @property
    def replaces(self) -> str | None:
        """A name shared by all contents that this source has had, of which only the newest matter; None if the
        content never changes."""

    def identity(self) -> list[Any]:
        """JSON values that the decoded content depends on: equal identity, equal arrays. A new reader is asked again
        after `decode`, and what was decoded is dropped if they differ."""

    def decode(self, destination: Destination, *, download: bool) -> dict[str, Any]:
        """Create and fill `train_images` and `test_images` (uint8 [N, C, H, W]), `train_labels` and `test_labels`
        (int64 [N]); `validation_images` and `validation_labels` too where the data set brings its validation set.

        Returns JSON facts: `class_names` by label; optionally `has_validation`, `skipped` (a number of damaged images),
        `decoding` (see `pictures.describe`), `notes` for a person, and what else is shown to one. It never writes to
        the data root. `download` says whether absent files may be fetched.
        """


@runtime_checkable
class RecognizableReader(DatasetReader, Protocol):
    """A reader whose `identity` costs much, such as a look at every file."""

    def signs(self) -> list[Any]:
        """JSON values that cost little and change with nearly every change of the content, by which a content that was
        identified some minutes ago is recognized."""


class DatasetSpec(Spec):
    """The fields of all data sets. A member declares `name: Literal[...]` with a default, and its own fields.

    The validation split is cut from the training set, stratified by class and seeded; no trial reads the test set.
    `classes`, `training_images`, which include the validation split, and `side`, in pixels, are None if they are
    unknown until the data are read. `safe_mirroring`: whether a mirrored image keeps its label. `safe_rotation`:
    largest rotation, in degrees, that keeps the label. `input_note` tells users of a registered model what they must
    know of this data set's images and classes.
    """

    classes: ClassVar[int | None] = None
    training_images: ClassVar[int | None] = None
    side: ClassVar[int | None] = None
    safe_mirroring: ClassVar[bool] = False
    safe_rotation: ClassVar[float] = 180.0
    default_augmentation: ClassVar[dict[str, Any]] = {}
    input_note: ClassVar[str] = ""

    name: str
    validation_fraction: Annotated[Number, Field(gt=0, le=0.5)] = Field(
        0.1, description="Share of the training set that is held out for validation, by which trials are compared."
    )

    @property
    def address(self) -> str | None:
        """The address of a bucket, where the files are in one and not in the data root."""
        return None

    @abstractmethod
    def reader(self, data_root: Path) -> DatasetReader:
        """The reader of the files below `data_root`. Raises DataUnavailableError if they are absent and cannot be
        fetched."""

    def check(self, data_root: Path) -> DataCheck:
        """What a process that sees the workers' `data_root` can tell. Its cost is bounded, because a person waits."""
        return DataCheck()

    def folder(self, data_root: Path) -> Path | None:
        """The folder that must exist before the first trial; None if the workers need none or can fetch the files."""
        return None

    @property
    def image_side(self) -> int | None:
        """Pixels of each side of the images that networks are trained with."""
        return self.side

    def keeps_labels_mirrored(self) -> bool:
        """Whether a mirrored image keeps its label."""
        return self.safe_mirroring

    def usual_augmentation(self) -> dict[str, Any]:
        """The augmentation of a spec without that block: nothing that could change a label."""
        return self.default_augmentation
