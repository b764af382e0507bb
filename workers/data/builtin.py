"""Stock data: digits, MNIST, Fashion-MNIST and CIFAR, found, checked and decoded by their own loaders.

scikit-learn ships the digits; torchvision reads the others and knows the md5 sums of their files. The
data root is only ever read: packed files are linked into the cache's scratch folder and unpacked there.
What is cached, and how it is split, is not known here.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torchvision import datasets as torchvision_datasets
from torchvision.datasets.utils import calculate_md5

from search_spaces.datasets import CIFAR10, CIFAR100, MNIST, DatasetSpec, Digits, FashionMNIST
from search_spaces.protocol import DISK_FULL_ERRNOS
from workers.data.cache import DataError, create_array

CLASSES: dict[type[DatasetSpec], Any] = {
    MNIST: torchvision_datasets.MNIST,
    FashionMNIST: torchvision_datasets.FashionMNIST,
    CIFAR10: torchvision_datasets.CIFAR10,
    CIFAR100: torchvision_datasets.CIFAR100,
}
DOWNLOAD_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Stock:
    """A stock data set and the files found for it, packed or unpacked. None found: it must be downloaded."""

    name: str
    loader: Any
    looked_in: tuple[Path, ...]
    packed: tuple[Path, ...] = ()
    unpacked: tuple[Path, ...] = ()

    def identity(self) -> list[Any]:
        """What the decoded content depends on."""
        if self.loader is None:
            return [self.name]
        if self.packed or not self.unpacked or not _is_idx(self.loader):
            return [self.name, sorted(_checksums(self.loader).items())]
        status = [(path.name, path.stat()) for path in self.unpacked]  # torchvision knows no md5 of these
        return [self.name, [(name, s.st_size, s.st_mtime_ns) for name, s in status]]


def find(dataset: DatasetSpec, data_root: Path) -> Stock:
    """Look for the files of a stock data set; reads no content."""
    name = str(getattr(dataset, "name", type(dataset).__name__))
    if isinstance(dataset, Digits):
        return Stock(name, None, ())
    loader = CLASSES.get(type(dataset))
    if loader is None:
        raise DataError(f"no loader for the data set {name}; known: digits, {', '.join(c.__name__ for c in CLASSES)}")
    roots = (data_root / name, data_root / name.replace("_", "-"), data_root)
    inner = (f"{loader.__name__}/raw", "raw", "") if _is_idx(loader) else (loader.base_folder, "")
    packed_names = tuple(_checksums(loader)) if _is_idx(loader) else (loader.filename,)
    for root in dict.fromkeys(roots):
        packed = _all_of(packed_names, (root, *(root / folder for folder in inner)))
        if packed:
            return Stock(name, loader, roots, packed=packed)
        unpacked = _all_of(_unpacked_names(loader), tuple(root / folder for folder in inner))
        if unpacked:
            return Stock(name, loader, roots, unpacked=unpacked)
    return Stock(name, loader, roots)


def decode(stock: Stock, folder: Path, *, download: bool) -> dict[str, Any]:
    """Write training and test arrays into `folder`; returns the class names. Raises DataError."""
    if stock.loader is None:
        return _decode_digits(folder)
    scratch = folder / "scratch"
    if not stock.packed and not stock.unpacked and not download:
        raise _absent(stock, "downloading is off")
    _check(stock)
    _lay_out(stock, scratch)
    try:
        with _socket_timeout(DOWNLOAD_TIMEOUT_S):
            sets = {part: stock.loader(scratch, train=part == "train", download=True) for part in ("train", "test")}
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:  # the disk, not the network: the cache explains it
            raise
        raise _absent(stock, f"the download failed: {error}") from error
    except (RuntimeError, ValueError, EOFError, KeyError) as error:
        if stock.packed or stock.unpacked:
            raise DataError(
                f"{stock.name}: the files in {(stock.packed or stock.unpacked)[0].parent} cannot be read "
                f"({error}); fetch them again"
            ) from error
        raise _absent(stock, f"the download failed: {' '.join(str(error).split())}") from error
    for part, loaded in sets.items():
        images = np.asarray(loaded.data)
        images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        _store(folder, part, images, np.asarray(loaded.targets))
    names = [str(name) for name in sets["train"].classes]
    _remove(scratch)
    return {"class_names": names}


def _decode_digits(folder: Path) -> dict[str, Any]:
    from sklearn.datasets import load_digits  # here, because importing scikit-learn takes a second

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    test = np.arange(len(images)) % 5 == 4
    _store(folder, "train", images[~test], digits.target[~test])
    _store(folder, "test", images[test], digits.target[test])
    return {"class_names": [str(name) for name in digits.target_names]}


def _store(folder: Path, part: str, images: NDArray[Any], labels: NDArray[Any]) -> None:
    create_array(folder, f"{part}_images", images.shape, np.uint8)[:] = images
    create_array(folder, f"{part}_labels", labels.shape, np.int64)[:] = labels


def _is_idx(loader: Any) -> bool:
    """Whether the set comes as the four idx files of the MNIST family."""
    return hasattr(loader, "resources")


def _checksums(loader: Any) -> dict[str, str]:
    """md5 of every file that torchvision checks, packed for the MNIST family."""
    if _is_idx(loader):
        return dict(loader.resources)
    listed = [*loader.train_list, *loader.test_list, (loader.meta["filename"], loader.meta["md5"])]
    return dict(listed)


def _unpacked_names(loader: Any) -> tuple[str, ...]:
    names = tuple(_checksums(loader))
    return tuple(name.removesuffix(".gz") for name in names) if _is_idx(loader) else names


def _all_of(names: tuple[str, ...], folders: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files of these names in the first folder that has them all."""
    for folder in folders:
        paths = tuple(folder / name for name in names)
        if all(path.is_file() for path in paths):
            return paths
    return ()


def _check(stock: Stock) -> None:
    """Compare md5 sums before torchvision does: on a difference it would write a download over the file."""
    sums = _checksums(stock.loader)
    if not _is_idx(stock.loader):
        sums[stock.loader.filename] = stock.loader.tgz_md5
    for path in (*stock.packed, *stock.unpacked):
        if path.name not in sums:
            continue
        try:
            found = calculate_md5(path)
        except OSError as error:
            raise DataError(f"{stock.name}: {path} cannot be read ({error.strerror})") from error
        if found != sums[path.name]:
            raise DataError(
                f"{stock.name}: {path} is damaged: md5 {sums[path.name]} required, got {found}; fetch it again"
            )


def _lay_out(stock: Stock, scratch: Path) -> None:
    """Link what was found into `scratch`, where torchvision looks for it and may write."""
    inner = f"{stock.loader.__name__}/raw" if _is_idx(stock.loader) else stock.loader.base_folder
    for paths, target in ((stock.unpacked, scratch / inner), (stock.packed, scratch / (inner * _is_idx(stock.loader)))):
        target.mkdir(parents=True, exist_ok=True)
        for path in paths:
            (target / path.name).symlink_to(path.resolve())


def _absent(stock: Stock, reason: str) -> DataError:
    wanted = ", ".join(_checksums(stock.loader)) if _is_idx(stock.loader) else stock.loader.filename
    looked_in = ", ".join(str(path) for path in stock.looked_in)
    return DataError(
        f"{stock.name} is not there and {reason}; looked in {looked_in}; "
        f"put its files ({wanted}) into {stock.looked_in[0]}"
    )


def _remove(scratch: Path) -> None:
    for folder, _, files in os.walk(scratch, topdown=False):
        for name in files:
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision opens its connections without a limit; a network that swallows packets would hang a trial."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
