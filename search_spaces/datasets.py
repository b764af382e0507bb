"""Data sets: what may be trained on, with the facts of each that other fields depend on.

Nothing here reads a file: each class names the workers' reader that does. A further data set of torchvision's MNIST
or CIFAR layout needs only a class here, listed in `Dataset`. Paths are relative to the workers' data root.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from search_spaces.domains import Integer, Number
from search_spaces.spec import NameShorthand, Spec


class DatasetSpec(Spec):
    """The fields of all data sets.

    The validation split is cut from the training set, stratified by class and seeded; only the winner's evaluation
    reads the test set. Each member has a `name` and `mirror_safe`, whether a mirrored image keeps its label;
    `safe_rotation`: largest rotation, in degrees, that keeps the label. `reader` is the reader's "module:class"
    (`workers.data.reader`). `classes` and `training_images`, which include the validation split, are None if they are
    unknown until the data are read.
    """

    reader: ClassVar[str]
    classes: ClassVar[int | None] = None
    training_images: ClassVar[int | None] = None
    safe_rotation: ClassVar[float] = 180.0
    default_augmentation: ClassVar[dict[str, Any]] = {}

    validation_fraction: Annotated[Number, Field(gt=0, le=0.5)] = Field(
        0.1, description="Share of the training set that is held out for validation, by which trials are compared."
    )

    def usual_augmentation(self) -> dict[str, Any]:
        """The augmentation of a spec without that block: nothing that could change a label."""
        return self.default_augmentation


class TorchvisionDataset(DatasetSpec):
    """A data set that torchvision's class `target` reads: four idx files as MNIST has, or batches as CIFAR has."""

    reader: ClassVar[str] = "workers.data.torchvision_files:TorchvisionReader"
    target: ClassVar[str]


class Digits(DatasetSpec):
    """scikit-learn's handwritten digits: 1,797 gray images of 8x8, every fifth image is in the test set."""

    reader: ClassVar[str] = "workers.data.digits:DigitsReader"
    classes: ClassVar[int | None] = 10
    training_images: ClassVar[int | None] = 1438
    mirror_safe: ClassVar[bool] = False
    safe_rotation: ClassVar[float] = 30.0
    name: Literal["digits"] = "digits"


class MNIST(TorchvisionDataset):
    """60,000 + 10,000 gray handwritten digits of 28x28."""

    target: ClassVar[str] = "torchvision.datasets:MNIST"
    classes: ClassVar[int | None] = 10
    training_images: ClassVar[int | None] = 60_000
    mirror_safe: ClassVar[bool] = False
    safe_rotation: ClassVar[float] = 30.0
    default_augmentation: ClassVar[dict[str, Any]] = {"crop_padding": 2}
    name: Literal["mnist"] = "mnist"


class FashionMNIST(TorchvisionDataset):
    """60,000 + 10,000 gray images of clothes of 28x28."""

    target: ClassVar[str] = "torchvision.datasets:FashionMNIST"
    classes: ClassVar[int | None] = 10
    training_images: ClassVar[int | None] = 60_000
    mirror_safe: ClassVar[bool] = True
    default_augmentation: ClassVar[dict[str, Any]] = {"crop_padding": 2, "horizontal_flip": 0.5}
    name: Literal["fashion_mnist"] = "fashion_mnist"


class CIFAR10(TorchvisionDataset):
    """50,000 + 10,000 color images of 32x32."""

    target: ClassVar[str] = "torchvision.datasets:CIFAR10"
    classes: ClassVar[int | None] = 10
    training_images: ClassVar[int | None] = 50_000
    mirror_safe: ClassVar[bool] = True
    default_augmentation: ClassVar[dict[str, Any]] = {"crop_padding": 4, "horizontal_flip": 0.5}
    name: Literal["cifar10"] = "cifar10"


class CIFAR100(TorchvisionDataset):
    """50,000 + 10,000 color images of 32x32."""

    target: ClassVar[str] = "torchvision.datasets:CIFAR100"
    classes: ClassVar[int | None] = 100
    training_images: ClassVar[int | None] = 50_000
    mirror_safe: ClassVar[bool] = True
    default_augmentation: ClassVar[dict[str, Any]] = {"crop_padding": 4, "horizontal_flip": 0.5}
    name: Literal["cifar100"] = "cifar100"


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

    reader: ClassVar[str] = "workers.data.image_folder:ImageFolderReader"
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

    def usual_augmentation(self) -> dict[str, Any]:
        """Mirroring, if it is declared to be safe: a folder may hold characters or signs."""
        return {"horizontal_flip": 0.5} if self.mirror_safe else {}


Dataset = Annotated[
    Digits | MNIST | FashionMNIST | CIFAR10 | CIFAR100 | ImageFolder,
    Field(discriminator="name"),
    NameShorthand("name"),
]
