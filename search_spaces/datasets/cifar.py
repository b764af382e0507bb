"""CIFAR-10 and CIFAR-100: an archive of pickled batches each."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from search_spaces.datasets.torchvision_files import TorchvisionDataset


class CIFAR10(TorchvisionDataset):
    """50,000 + 10,000 color images of 32x32."""

    loader: ClassVar[str] = "CIFAR10"
    signs: ClassVar[tuple[str, ...]] = ("cifar-10-python.tar.gz", "cifar-10-batches-py")
    classes: ClassVar[int | None] = 10
    training_images: ClassVar[int | None] = 50_000
    side: ClassVar[int | None] = 32
    safe_mirroring: ClassVar[bool] = True
    default_augmentation: ClassVar[dict[str, Any]] = {"crop_padding": 4, "horizontal_flip": 0.5}
    name: Literal["cifar10"] = "cifar10"


class CIFAR100(TorchvisionDataset):
    """50,000 + 10,000 color images of 32x32."""

    loader: ClassVar[str] = "CIFAR100"
    signs: ClassVar[tuple[str, ...]] = ("cifar-100-python.tar.gz", "cifar-100-python")
    classes: ClassVar[int | None] = 100
    training_images: ClassVar[int | None] = 50_000
    side: ClassVar[int | None] = 32
    safe_mirroring: ClassVar[bool] = True
    default_augmentation: ClassVar[dict[str, Any]] = {"crop_padding": 4, "horizontal_flip": 0.5}
    name: Literal["cifar100"] = "cifar100"
