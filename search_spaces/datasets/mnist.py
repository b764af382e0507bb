"""MNIST and Fashion-MNIST: four idx files each."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from search_spaces.datasets.torchvision_files import TorchvisionDataset


class MNIST(TorchvisionDataset):
    """60,000 + 10,000 gray handwritten digits of 28x28."""

    loader: ClassVar[str] = "MNIST"
    classes: ClassVar[int | None] = 10
    training_images: ClassVar[int | None] = 60_000
    safe_rotation: ClassVar[float] = 30.0
    default_augmentation: ClassVar[dict[str, Any]] = {"crop_padding": 2}
    name: Literal["mnist"] = "mnist"


class FashionMNIST(TorchvisionDataset):
    """60,000 + 10,000 gray images of clothes of 28x28."""

    loader: ClassVar[str] = "FashionMNIST"
    classes: ClassVar[int | None] = 10
    training_images: ClassVar[int | None] = 60_000
    safe_mirroring: ClassVar[bool] = True
    default_augmentation: ClassVar[dict[str, Any]] = {"crop_padding": 2, "horizontal_flip": 0.5}
    name: Literal["fashion_mnist"] = "fashion_mnist"
