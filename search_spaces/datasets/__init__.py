"""Data sets: what may be trained on, and how its files become arrays. One module or package per kind of files.

The modules of this package are the registry: a new data set is a new module with a subclass of `base.DatasetSpec`, and
nothing else changes. The service imports them to validate specs, so they import numpy, Pillow, torchvision and the like
only when a reader decodes. Paths are relative to the workers' data root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.datasets.base import DatasetSpec
from search_spaces.datasets.cifar import CIFAR10, CIFAR100
from search_spaces.datasets.digits import Digits
from search_spaces.datasets.image_folder import ImageFolder
from search_spaces.datasets.mnist import MNIST, FashionMNIST
from search_spaces.spec import family_of_package

#: The classes of version 0.1 keep their import path. A new data set need not be listed here.
__all__ = ["CIFAR10", "CIFAR100", "MNIST", "Dataset", "DatasetSpec", "Digits", "FashionMNIST", "ImageFolder"]

if TYPE_CHECKING:
    Dataset = DatasetSpec
else:
    Dataset = family_of_package(__name__, DatasetSpec, tag="name")
