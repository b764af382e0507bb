"""Folder storage: an experiment in a folder of a file system that all nodes share.

Owns how artifacts and stop signals are kept as files. It must not know what they mean.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import BinaryIO

from search_spaces.layout import ExperimentFolder
from search_spaces.storage.atomic import PRIVATE, SHARED, atomic_write
from search_spaces.storage.base import DISK_FULL_ERRNOS, Artifact, NotAFileError, check_name
from search_spaces.storage.folder_journal import FolderJournal
from search_spaces.storage.regular_file import folder_of, is_folder, open_folder, open_regular

SCHEME = "folder://"
IDENTITY = ".rung-storage"  # the name of a file in the root
LONGEST_IDENTITY = 64
UNFINISHED = ".part"  # the end of the name of a folder that is not complete


def check_root(address: str) -> str:
    """An absolute path: drivers and trials have other working directories than the service."""
    try:
        return str(Path(address.removeprefix(SCHEME)).expanduser().absolute())
    except RuntimeError:  # ~name, for a user who does not exist
        raise ValueError(f"must be a folder that can be found (got {address!r})") from None


def open_storage(address: str) -> FolderStorage:
    """`address` is a path, with or without `folder://`."""
    return FolderStorage(Path(address.removeprefix(SCHEME)))


def open_root(address: str) -> FolderRoot:
    return FolderRoot(Path(address.removeprefix(SCHEME)))


@dataclass(frozen=True)
class FolderRoot:
    """The folder that has a folder for each experiment. It may be a link. Its identity is a file in it."""

    root: Path

    @property
    def identity_address(self) -> str:
        return str(self.root / IDENTITY)

    def exists(self) -> bool:
        return self.root.is_dir()

    def identity(self) -> str | None:
        folder = self.root.resolve()
        try:
            with open(open_regular(folder, folder / IDENTITY, os.O_RDONLY), "rb") as file:
                return file.read(LONGEST_IDENTITY).decode("ascii", "replace").strip() or None
        except (FileNotFoundError, NotAFileError):
            return None

    def identify(self, identity: str) -> str:
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / IDENTITY
        try:
            with path.open("x", encoding="ascii") as file:  # of two services that start at once, one is the first
                file.write(f"{identity}\n")
        except FileExistsError:
            if found := self.identity():
                return found
            atomic_write(path, f"{identity}\n".encode())
        return identity


@dataclass(frozen=True)
class FolderStorage:
    """The folder of one experiment. It may not exist."""

    root: Path

    @cached_property
    def journal(self) -> FolderJournal:
        folder = ExperimentFolder(self.root)
        return FolderJournal(folder.journal, folder.journal_copy)

    @cached_property
    def artifacts(self) -> FolderArtifacts:
        return FolderArtifacts(self.root)

    def stop_signal(self, trial: int) -> FolderStopSignal:
        return FolderStopSignal(ExperimentFolder(self.root).trial(trial).stop, self.root)

    def create(self) -> None:
        if not self.root.is_symlink():
            self.root.mkdir(exist_ok=True)
        _check_folder(self.root)

    def free_bytes(self) -> int | None:
        try:
            return shutil.disk_usage(self.root if self.root.exists() else self.root.parent).free
        except OSError:
            return None

    def remove(self) -> None:
        if is_folder(self.root):
            shutil.rmtree(self.root)
        else:
            self.root.unlink(missing_ok=True)  # a link in its place: what it leads to stays


class FolderArtifacts:
    """Each artifact is a file below `root`. Folders below `root` are created as needed.

    `root` is not. `root` must not be a link, and no link below it is followed: a model that somebody trains here could
    let the service show any file that it can read, and overwrite or remove any that it can write.
    """

    is_remote = False

    def __init__(self, root: Path) -> None:
        self._root = root

    def exists(self, name: PurePath) -> bool:
        path = self._path(name)
        try:
            with folder_of(self._root, path) as folder:
                return stat.S_ISREG(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode)
        except (FileNotFoundError, NotAFileError):
            return False

    def open_reader(self, name: PurePath) -> BinaryIO:
        return open(self._path(name), "rb", opener=self._open)

    def open_appender(self, name: PurePath) -> BinaryIO:
        path = self._path(name)
        with folder_of(self._root, path, create=True):
            return open(path, "ab", buffering=0, opener=self._open)

    def write(
        self, name: PurePath, content: bytes | memoryview, *, private: bool = False, durable: bool = True
    ) -> None:
        path = self._path(name)
        with folder_of(self._root, path, create=True) as folder:
            atomic_write(path, content, PRIVATE if private else SHARED, durable=durable, folder=folder)

    def rotate(self, name: PurePath, content: bytes | memoryview, previous: PurePath) -> None:
        fresh = name.with_name(f"{name.name}.{os.getpid()}")
        try:
            self.write(fresh, content)
            with suppress(FileNotFoundError):
                self._move(name, previous)
            self._move(fresh, name)
        finally:
            self.remove(fresh)

    def list(self, folder: PurePath | None = None) -> Iterator[Artifact]:
        seen: set[tuple[int, int]] = set()
        top = self._path(folder or PurePath())
        if not self._is_folder(top):
            return
        for parent, _, names in os.walk(top, onerror=_raise_unless_gone):
            for name in names:
                path = Path(parent, name)
                try:
                    status = path.lstat()
                except FileNotFoundError:  # removed meanwhile
                    continue
                file = (status.st_dev, status.st_ino)
                yield Artifact(path.relative_to(self._root), 0 if file in seen else status.st_size)
                if status.st_nlink > 1:
                    seen.add(file)

    def remove(self, name: PurePath) -> None:
        path = self._path(name)
        if is_folder(self._root):
            with suppress(FileNotFoundError), folder_of(self._root, path) as folder:
                os.unlink(path.name, dir_fd=folder)

    @contextmanager
    def replace_folder(self, name: PurePath) -> Iterator[Path]:
        path = self._path(name)
        os.close(open_folder(self._root, path.parent, create=True))
        self.discard_unfinished(name)
        with tempfile.TemporaryDirectory(
            prefix=f"{path.name}.", suffix=UNFINISHED, dir=path.parent, ignore_cleanup_errors=True
        ) as parent:
            fresh = Path(parent, "new")
            fresh.mkdir()
            yield fresh
            if os.path.lexists(path):  # also a link, wherever it leads
                path.replace(Path(parent, "old"))
            fresh.replace(path)

    def discard_unfinished(self, name: PurePath) -> None:
        path = self._path(name)
        if self._is_folder(path.parent):
            for unfinished in path.parent.glob(f"{path.name}.*{UNFINISHED}/"):
                shutil.rmtree(unfinished, ignore_errors=True)

    @contextmanager
    def local_folder(self, name: PurePath) -> Iterator[Path]:
        path = self._path(name)
        if not self._is_folder(path):
            raise FileNotFoundError(f"no folder {path}")
        yield path

    def _move(self, name: PurePath, new_name: PurePath) -> None:
        old, new = self._path(name), self._path(new_name)
        with folder_of(self._root, new, create=True) as target, folder_of(self._root, old) as source:
            os.replace(old.name, new.name, src_dir_fd=source, dst_dir_fd=target)

    def _path(self, name: PurePath) -> Path:
        check_name(name)
        return self._root / name

    def _open(self, path: str, flags: int) -> int:
        return open_regular(self._root, path, flags)

    def _is_folder(self, path: Path) -> bool:
        try:
            os.close(open_folder(self._root, path))
        except (FileNotFoundError, NotAFileError):
            return False
        return True


def _raise_unless_gone(error: OSError) -> None:
    """A folder that cannot be read is not an empty one; one that was removed meanwhile is."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _check_folder(root: Path) -> None:
    if not is_folder(root):
        if root.is_symlink() or root.exists():
            raise NotAFileError(errno.ENOTDIR, "must be a folder, not a link or a file", str(root))
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(root))


FLAGS_TO_ASK = os.O_WRONLY | os.O_CREAT | os.O_APPEND


class FolderStopSignal:
    """A file that grows by a byte with each request. A time would not tell two requests of one clock tick apart."""

    def __init__(self, path: Path, root: Path | None = None) -> None:
        """`root` is the experiment's folder, below which no link is followed."""
        self._path = path
        self._root = root or path.parent
        self._cleared = self._touched()

    def ask(self) -> None:
        file = open_regular(self._root, self._path, FLAGS_TO_ASK, SHARED)
        try:
            os.write(file, b"\0")  # two drivers that ask at once add two bytes
        except OSError as error:
            if error.errno not in DISK_FULL_ERRNOS:
                raise
            os.ftruncate(file, os.fstat(file).st_size + 1)  # needs no space
        finally:
            os.close(file)

    def asked(self) -> bool:
        touched = self._touched()
        return touched is not None and touched != self._cleared

    def clear(self) -> None:
        self._cleared = self._touched()

    def _touched(self) -> tuple[int, int] | None:
        try:
            status = self._path.lstat()
        except OSError:
            return None
        return status.st_ino, status.st_size
