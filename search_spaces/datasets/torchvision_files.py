"""Data sets that torchvision's own classes decode: MNIST, Fashion-MNIST, CIFAR and their like.

A data set names torchvision's class as data; a new one is a subclass of `TorchvisionDataset` in a module of its own.
Its files must be the four idx files of the MNIST family or CIFAR's pickled batches, whose md5 sums torchvision knows.
The data root is only read: packed files are linked into the scratch folder and unpacked there.
"""

from __future__ import annotations

import gzip
import math
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from search_spaces.datasets.base import (
    DataCheck,
    DataError,
    DatasetReader,
    DatasetSpec,
    DataUnavailableError,
    Destination,
)
from search_spaces.storage.base import DISK_FULL_ERRNOS

DOWNLOAD_TIMEOUT_S = 30.0  # for one answer of the network: a download lasts longer, a silent server does not


class TorchvisionDataset(DatasetSpec):
    """`loader` is the name of a class in `torchvision.datasets`. `signs`: paths below a folder, of which one is there
    where the files are; they need not be given."""

    loader: ClassVar[str]
    signs: ClassVar[tuple[str, ...]] = ()

    def reader(self, data_root: Path) -> DatasetReader:
        return TorchvisionReader(self, data_root)

    def check(self, data_root: Path) -> DataCheck:
        searched = _searched(self.name, data_root)
        if not self.signs or any((folder / sign).exists() for folder in searched for sign in self.signs):
            return DataCheck()
        note = f"dataset: {self.name} is not in {searched[0]}; the first trial downloads it, which needs a network"
        return DataCheck(notes=(note,))


class TorchvisionReader:
    """`packed` and `unpacked` are the files that were found; if both are empty, the data must be downloaded."""

    replaces = None

    def __init__(self, spec: TorchvisionDataset, data_root: Path) -> None:
        from torchvision import datasets

        self.name = spec.name
        self._loader: Any = getattr(datasets, spec.loader)
        self._is_idx = hasattr(self._loader, "resources")
        self._searched = _searched(self.name, data_root)
        self.packed: tuple[Path, ...] = ()
        self.unpacked: tuple[Path, ...] = ()
        self._find()

    def identity(self) -> list[Any]:
        if self.packed or not self.unpacked or not self._is_idx:
            return [self.name, sorted(self._checksums().items())]
        status = [(path.name, path.stat()) for path in self.unpacked]  # torchvision knows no md5 of these
        return [self.name, [[name, s.st_size, s.st_mtime_ns] for name, s in status]]

    def decode(self, destination: Destination, *, download: bool) -> dict[str, Any]:
        import numpy as np

        if not self.packed and not self.unpacked and not download:
            raise self._absent("downloading is off")
        self._check()
        self._link_into(destination.scratch)
        sets = self._load(destination.scratch)
        for part, loaded in sets.items():
            images, labels = np.asarray(loaded.data), np.asarray(loaded.targets)
            images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
            destination.create_array(f"{part}_images", images.shape, np.uint8)[:] = images
            destination.create_array(f"{part}_labels", labels.shape, np.int64)[:] = labels
        return {"class_names": [str(name) for name in sets["train"].classes]}

    def _find(self) -> None:
        """The files in the first folder that holds them all."""
        loader = self._loader
        inner = (f"{loader.__name__}/raw", "raw", "") if self._is_idx else (loader.base_folder, "")
        packed_names = tuple(self._checksums()) if self._is_idx else (loader.filename,)
        for root in self._searched:
            self.packed = _all_of(packed_names, (root, *(root / folder for folder in inner)))
            if self.packed:
                return
            self.unpacked = _all_of(self._unpacked_names(), tuple(root / folder for folder in inner))
            if self.unpacked:
                return

    def _load(self, scratch: Path) -> dict[str, Any]:
        """torchvision's training and test sets, downloaded if need be."""
        found = self.packed or self.unpacked
        try:
            with _socket_timeout(DOWNLOAD_TIMEOUT_S):
                return {part: self._loader(scratch, train=part == "train", download=True) for part in ("train", "test")}
        except MemoryError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL_ERRNOS:
                raise  # the disk, not the network: the cache explains it
            if not found:
                raise self._absent(f"the download failed: {' '.join(str(error).split())}") from error
            if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
                raise DataUnavailableError(f"{self.name}: {found[0].parent} cannot be read ({error})") from error
            raise self._undecodable(found, error) from error

    def _undecodable(self, found: tuple[Path, ...], error: Exception) -> DataError:
        """Files of which the content is wrong, with the damaged ones named."""
        try:
            damaged = [path for path in found if self._is_idx and not _is_idx_file(path)]
        except OSError as unreadable:  # now: torchvision may have missed it too, and tried to download it
            return DataUnavailableError(f"{self.name}: {found[0].parent} cannot be read ({unreadable})")
        named = ", ".join(str(path) for path in damaged or found)
        why = " ".join(str(error).split()) or type(error).__name__
        return DataError(f"{self.name}: cannot decode {named} ({why}); fetch what is damaged again")

    def _checksums(self) -> dict[str, str]:
        """The md5 of every file that torchvision checks, packed for the MNIST family."""
        if self._is_idx:
            return dict(self._loader.resources)
        meta = self._loader.meta
        return dict([*self._loader.train_list, *self._loader.test_list, (meta["filename"], meta["md5"])])

    def _unpacked_names(self) -> tuple[str, ...]:
        names = tuple(self._checksums())
        return tuple(name.removesuffix(".gz") for name in names) if self._is_idx else names

    def _check(self) -> None:
        """Compare md5 sums before torchvision does: on a difference it would write a download over the file."""
        from torchvision.datasets.utils import calculate_md5

        sums = self._checksums()
        if not self._is_idx:
            sums[self._loader.filename] = self._loader.tgz_md5
        for path in (*self.packed, *self.unpacked):
            if path.name not in sums:
                continue
            try:
                found = calculate_md5(path)
            except OSError as error:
                raise DataUnavailableError(f"{self.name}: {path} cannot be read ({error.strerror})") from error
            if found != sums[path.name]:
                raise DataError(
                    f"{self.name}: {path} is damaged: its md5 must be {sums[path.name]} (got {found}); fetch it again"
                )

    def _link_into(self, scratch: Path) -> None:
        """Link what was found into `scratch`, where torchvision looks for it and may write."""
        inner = f"{self._loader.__name__}/raw" if self._is_idx else self._loader.base_folder
        for paths, target in ((self.unpacked, scratch / inner), (self.packed, scratch / (inner * self._is_idx))):
            target.mkdir(parents=True, exist_ok=True)
            for path in paths:
                (target / path.name).symlink_to(path.resolve())

    def _absent(self, reason: str) -> DataUnavailableError:
        wanted = ", ".join(self._checksums()) if self._is_idx else self._loader.filename
        searched = ", ".join(str(path) for path in self._searched)
        return DataUnavailableError(
            f"{self.name} was not found and {reason}; looked in {searched}; put its files ({wanted}) "
            f"into {self._searched[0]}"
        )


def _searched(name: str, data_root: Path) -> tuple[Path, ...]:
    """The folders in which the files are looked for, in this order."""
    return tuple(dict.fromkeys((data_root / name, data_root / name.replace("_", "-"), data_root)))


def _all_of(names: tuple[str, ...], folders: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files of these names in the first folder that has them all."""
    for folder in folders:
        paths = tuple(folder / name for name in names)
        if all(path.is_file() for path in paths):
            return paths
    return ()


def _is_idx_file(path: Path) -> bool:
    """Whether a file, packed or not, is an array of bytes as long as its header says."""
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (gzip.BadGzipFile, zlib.error, EOFError):
        return False
    dimensions = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    shape = [int.from_bytes(content[4 * i : 4 * i + 4], "big") for i in range(1, dimensions + 1)]
    return dimensions > 0 and len(content) == 4 + 4 * dimensions + math.prod(shape)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision opens its connections without a limit; a network that swallows packets would hang a trial."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
