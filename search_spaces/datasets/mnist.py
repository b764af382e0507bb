"""MNIST and Fashion-MNIST: four idx files each."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from search_spaces.datasets.torchvision_files import TorchvisionDataset

#: As torchvision's reader looks for them, packed or not; `{}` is the name of its class.
IDX_FILES = tuple(f"{folder}train-images-idx3-ubyte{end}" for folder in ("{}/raw/", "raw/", "") for end in ("", ".gz"))


class MNIST(TorchvisionDataset):
    """60,000 + 10,000 gray handwritten digits of 28x28."""

    loader: ClassVar[str] = "MNIST"
    signs: ClassVar[tuple[str, ...]] = tuple(path.format("MNIST") for path in IDX_FILES)
    classes: ClassVar[int | None] = 10
    training_images: ClassVar[int | None] = 60_000
    side: ClassVar[int | None] = 28
    safe_rotation: ClassVar[float] = 30.0
    default_augmentation: ClassVar[dict[str, Any]] = {"crop_padding": 2}
    name: Literal["mnist"] = "mnist"


class FashionMNIST(TorchvisionDataset):
    """60,000 + 10,000 gray images of clothes of 28x28."""

    loader: ClassVar[str] = "FashionMNIST"
    signs: ClassVar[tuple[str, ...]] = tuple(path.format("FashionMNIST") for path in IDX_FILES)
    classes: ClassVar[int | None] = 10
    training_images: ClassVar[int | None] = 60_000
    side: ClassVar[int | None] = 28
    safe_mirroring: ClassVar[bool] = True
    default_augmentation: ClassVar[dict[str, Any]] = {"crop_padding": 2, "horizontal_flip": 0.5}
    name: Literal["fashion_mnist"] = "fashion_mnist"
