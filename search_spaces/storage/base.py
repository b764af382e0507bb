"""Storage: the protocols of what keeps an experiment's data outside its processes, and `open_storage`.

Owns what a storage backend must do: a journal, artifacts (specs, weights, models, plots, logs) and stop signals. Both
the service and the workers use it. It must not know a backend, nor what the data mean.

A backend is one module of this package with three functions: `check_root(address: str) -> str`, `open_root(address:
str) -> StorageRoot` and `open_storage(address: str) -> ExperimentStorage`, which do what those of this module do. The
scheme of an address names the module: `s3://bucket/path` is opened by `s3.py`. An address without a scheme is a
folder. Addresses are shown to users, so they must hold no password. `tests/support/contracts/storage.py`
tests a backend.
"""

from __future__ import annotations

import errno
import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any, BinaryIO, Protocol

from search_spaces import storage

#: A JSON object.
Entry = dict[str, Any]

BLOCK_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 2**24  # outcomes of 100 million images, runs of 350 thousand trials

#: What the operating system reports when a disk or a quota is full.
DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
#: What it reports while a file system cannot be used: it is read-only, unreachable or failing, or gives no permission.
UNUSABLE_ERRNOS = frozenset({errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES, errno.EPERM})

#: What it reports for something else in the place of a file or a folder, such as a link, or one of them for the other.
MISPLACED_ERRNOS = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY})


class NotAFileError(OSError):
    """Something else has the name of a file: a link, a folder or a named pipe, for example."""


class DocumentTooLargeError(OSError):
    """A file has more bytes than a document may have."""


class WriterFencedError(Exception):
    """A later writer has opened the journal: this one must not write any more."""


class JournalDamagedError(Exception):
    """An entry is not what was written. `open_writer` repairs the journal."""


@dataclass(frozen=True)
class Position:
    """A place between two entries. `offset` grows from 0; the other fields belong to the backend.

    `writer` is the latest writer before it. `checksum` identifies what is before it; None if that is not known.
    """

    offset: int = 0
    writer: int = 0
    checksum: int | None = None


BEGINNING = Position()


class JournalWriter(Protocol):
    """Appends entries, from any thread. Entries that a writer adds after a later one has started are void."""

    def append(self, entry: Entry, sync: bool = False) -> None:
        """Add one entry, which survives the end of the process when this returns.

        `sync` waits until it would survive a power failure. Raises OSError and WriterFencedError,
        and then adds nothing.
        """

    def append_all(self, entries: Sequence[Entry]) -> None:
        """Add several entries, synced: after a crash, all of them are there or none. Raises as `append`."""

    def check_not_fenced(self) -> None:
        """Raise WriterFencedError if a later writer has started, and OSError."""

    def close(self) -> None: ...


class JournalBackend(Protocol):
    """An append-only sequence of entries, with one current writer and any number of readers."""

    def exists(self) -> bool: ...

    def open_writer(self, writer: int) -> JournalWriter:
        """Repair the journal and become its current writer with the first entry.

        `writer` (from 1) is higher for each process that opens the journal. Raises WriterFencedError and OSError.
        """

    def read(self, after: Position = BEGINNING, limit_bytes: int = BLOCK_BYTES) -> tuple[list[Entry], Position]:
        """Valid entries after a position, about `limit_bytes` of them, and the position after the last.

        Works while a writer appends: an incomplete entry is left to the next call. Raises JournalDamagedError.
        """

    def entries(self) -> Iterator[Entry]:
        """All valid entries from the beginning, restored in memory where only a part is damaged or missing.

        Raises JournalDamagedError where entries are lost.
        """

    def stands(self, position: Position) -> bool:
        """Whether the entries before a position are those that were there when it was taken."""


@dataclass(frozen=True)
class Artifact:
    """`size_bytes` is 0 for another name of a file that was listed before."""

    name: PurePath
    size_bytes: int


class ArtifactStore(Protocol):
    """Files by name. A name is a relative path, as `search_spaces.layout.NAMES` gives them.

    Raises ValueError for a name that leaves the experiment, and OSError; FileNotFoundError if there is no such file, or
    no such experiment to write to; NotAFileError for something else than a file.
    """

    @property
    def is_remote(self) -> bool:
        """Whether each call takes requests to another machine, so that others should not wait for a large file."""

    def exists(self, name: PurePath) -> bool: ...

    def open_reader(self, name: PurePath) -> BinaryIO:
        """The content, seekable. The caller closes it."""

    def open_appender(self, name: PurePath) -> BinaryIO:
        """Add to a file, which is created if missing and readable by its owner only.

        Readers see what is written soon, at the latest after `close`.
        """

    def write(
        self, name: PurePath, content: bytes | memoryview, *, private: bool = False, durable: bool = True
    ) -> None:
        """Create or replace a file in one step, so that it survives a power failure; on an error nothing changes.

        `private`: it holds a secret, so only the owner may read it. Not `durable`: for a file that is not worth waiting
        for the disk; after a power failure it may be empty.
        """

    def rotate(self, name: PurePath, content: bytes | memoryview, previous: PurePath) -> None:
        """As `write`; the file that this replaces, if there is one, becomes `previous`.

        A process that is killed meanwhile leaves that file under one of the two names.
        """

    def list(self, folder: PurePath | None = None) -> Iterator[Artifact]:
        """The files below a folder (None: all, and the backend's own, such as the journal's), in no order.

        Files added or removed meanwhile may be missing. The caller may remove files during the iteration. Raises
        OSError where not all can be listed.
        """

    def remove(self, name: PurePath) -> None:
        """Remove a file. Does nothing if there is none."""

    def replace_folder(self, name: PurePath) -> AbstractContextManager[Path]:
        """An empty local folder; when the block ends without an exception, its files replace the folder `name`.

        There is one writer: what a process that was killed inside the block left behind, is removed by the next call,
        and by `discard_unfinished`.
        """

    def discard_unfinished(self, name: PurePath) -> None:
        """Remove what a process left behind that was killed while it replaced the folder `name`."""

    def local_folder(self, name: PurePath) -> AbstractContextManager[Path]:
        """The files of folder `name` as a local folder, to be read only and only inside the block."""


class StopSignal(Protocol):
    """Asks the processes that train a trial to leave its epoch.

    A request is for all processes that check at that time. A process that clears it clears it for itself only.
    """

    def ask(self) -> None:
        """Ask them. Raises OSError."""

    def asked(self) -> bool:
        """Whether somebody asked since this object was created or cleared."""

    def clear(self) -> None:
        """Ignore all requests up to now."""


class ExperimentStorage(Protocol):
    """The storage of one experiment. To open it neither creates nor checks anything.

    Only `create` creates it: a process that outlives its experiment must not bring the experiment back.
    """

    @property
    def journal(self) -> JournalBackend: ...

    @property
    def artifacts(self) -> ArtifactStore: ...

    def stop_signal(self, trial: int) -> StopSignal: ...

    def create(self) -> None:
        """Prepare the storage to be written. Does nothing if it is prepared.

        Raises OSError, also if the root is missing.
        """

    def free_bytes(self) -> int | None:
        """Bytes that can still be written, also before `create`; None if unknown or unlimited."""

    def remove(self) -> None:
        """Remove everything. Does nothing if there is nothing. Raises OSError."""


class StorageRoot(Protocol):
    """The place of all experiments. Its identity is a short text by which it is recognized."""

    @property
    def identity_address(self) -> str:
        """Where the identity is stored, for people."""

    def exists(self) -> bool: ...

    def identity(self) -> str | None:
        """None if the place is missing, or has no identity. Raises OSError."""

    def identify(self, identity: str) -> str:
        """Create the place if it is missing, and give it an identity if it has none. Returns the one that it has then.

        Raises OSError.
        """


def check_name(name: PurePath) -> None:
    """Raise ValueError for the name of an artifact that leaves its experiment."""
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"the name of an artifact must be a relative path without .. (got {str(name)!r})")


def check_root(address: str) -> str:
    """The address of a place for experiments, in a form that all processes and machines understand.

    With `/` and an id behind it, it is the address of an experiment. Raises ValueError for an address that no backend
    accepts. Whether the place can be used, the first `create` shows.
    """
    checked: str = _backend(address).check_root(address)
    return checked


def open_storage(address: str) -> ExperimentStorage:
    """The storage of the experiment at an address. Raises ValueError for a scheme that no backend has."""
    opened: ExperimentStorage = _backend(address).open_storage(address)
    return opened


def read_document(artifacts: ArtifactStore, name: PurePath) -> bytes:
    """The content of a file that holds a document, not weights or logs.

    Code that trains can write any content there, so reading it is bounded. Raises DocumentTooLargeError, OSError.
    """
    with artifacts.open_reader(name) as file:
        content = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise DocumentTooLargeError(errno.EFBIG, f"must have at most {MAX_DOCUMENT_BYTES} bytes", str(name))
    return content


def open_root(address: str) -> StorageRoot:
    """The place at an address that `check_root` has returned. Neither creates nor checks anything."""
    opened: StorageRoot = _backend(address).open_root(address)
    return opened


def backends() -> dict[str, ModuleType]:
    """All modules of backends, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(storage.__path__))
    return {name: module for name in names if (module := _module(name))}


def _backend(address: str) -> ModuleType:
    scheme, separator, _ = address.partition("://")
    name = scheme if separator else "folder"
    names = {module.name for module in pkgutil.iter_modules(storage.__path__)}
    if name in names and (backend := _module(name)):
        return backend
    raise ValueError(f"the scheme of a storage address must be one of {', '.join(backends())} (got {name!r})")


def _module(name: str) -> ModuleType | None:
    """The module of a backend; None for another module of this package."""
    module = importlib.import_module(f"{storage.__name__}.{name}")
    return module if hasattr(module, "open_storage") and module.__name__ != __name__ else None
