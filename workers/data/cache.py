"""Cache: arrays that are decoded once on a node and mapped into memory by every trial on it.

An entry is a folder of `.npy` files with a manifest, under a key made from whatever the content depends
on. It appears by one rename, so it is either complete or absent; builders wait for each other on a file
lock that the kernel drops when its holder dies. Arrays get their disk blocks before they are written,
so that a full disk raises an error instead of killing the process with a signal. It must not know images or labels.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from search_spaces.datasets.base import DataError, DataUnavailableError
from search_spaces.storage.base import DISK_FULL_ERRNOS

RECALL_S = 600.0  # for how long a content is recognized by its signs, until all its files are looked at again
RESERVE_SHARE = 0.05  # of a disk, and at most RESERVE_BYTES: what the cache leaves free for others
RESERVE_BYTES = 10 * 2**30
IDLE_S = 3600.0  # an entry that was used within this time is never deleted
FORMAT = 1  # raise it when the layout of an entry or the meaning of its arrays changes
LONGEST_NOTE_BYTES = 2**16  # of why a build failed
RECALL_SUFFIX = "seen.json"
MANIFEST, SCRATCH = "manifest.json", "scratch"  # in the folder of an entry; the second only while it is built


@dataclass(frozen=True)
class Entry:
    """A complete entry: its folder, and the facts that its builder returned."""

    path: Path
    facts: dict[str, Any]

    def array(self, name: str) -> NDArray[Any]:
        """An array by name, backed by the file. Pages are shared; writing changes only this process's copy."""
        array: NDArray[Any] = np.load(self.path / f"{name}.npy", mmap_mode="c", allow_pickle=False)
        return array


def key_of(*parts: Any) -> str:
    """A short name for JSON values: equal parts give an equal key."""
    text = json.dumps([FORMAT, *parts], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Draft:
    """An entry that is being built."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def scratch(self) -> Path:
        """A folder for temporary files. It is deleted when the entry is complete."""
        path = self._folder / SCRATCH
        path.mkdir(exist_ok=True)
        return path

    def create_array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """A new array to be filled, backed by a file with its disk blocks allocated."""
        path = self._folder / f"{name}.npy"
        with path.open("wb") as file:
            described = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
            npy.write_array_header_1_0(file, described)
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            file.flush()
            _make_room(self._folder.parent, size)
            if size:
                os.posix_fallocate(file.fileno(), file.tell(), size)
        array: NDArray[Any] = np.load(path, mmap_mode="r+", allow_pickle=False)
        return array


def entry(root: Path, key: str, build: Callable[[Draft], dict[str, Any]]) -> Entry:
    """The entry `key` under `root`, built first if it is absent or damaged.

    `build` fills the draft it is given and returns JSON facts, which the entry stores. If several processes ask at
    once, one builds and the others wait for it; a DataError of `build` is theirs too. Raises DataUnavailableError if
    `root` cannot be written or is full.
    """
    found = find(root, key)
    if found is not None:
        return found
    with _readable_errors(root):
        asked_at = time.time()
        _make(root)
        with _locked(root / f"{key}.lock") as lock:
            found = find(root, key)
            if found is not None:
                return found
            _raise_failure_since(lock, asked_at)
            try:
                _build(root, key, build)
            except DataError as error:
                _note_failure(lock, error)
                raise
    found = find(root, key)
    if found is None:
        raise DataUnavailableError(f"the cache {root} lost what was written to it; use a folder on a local disk")
    return found


def find(root: Path, key: str) -> Entry | None:
    """The entry `key` under `root` if it is complete: a file whose size or time of change differs from the record is
    checksummed again."""
    path = root / key
    manifest = path / MANIFEST
    try:
        content = json.loads(manifest.read_text())
        if content["format"] != FORMAT:
            return None
        for name, (size, changed_ns, checksum) in content["files"].items():
            status = (path / name).stat()
            if status.st_size != size:
                return None
            if status.st_mtime_ns != changed_ns and _checksum(path / name) != checksum:
                return None
        facts = content["facts"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    with suppress(OSError):  # a read-only cache can still be used
        os.utime(manifest)  # marks the use, for `prune`
    return Entry(path, facts)


def remember(root: Path, group: str, signs: str, key: str) -> None:
    """Note that the content with these signs is the entry `key`, for `recall`. One note is kept for each group."""
    note = root / f"{group}{RECALL_SUFFIX}"
    draft = note.with_name(f".{note.name}.{os.getpid()}")
    with suppress(OSError):  # a read-only cache can still be used
        draft.write_text(json.dumps({"signs": signs, "key": key, "at": time.time()}))
        draft.rename(note)


def recall(root: Path, group: str, signs: str) -> str | None:
    """The key that was noted for these signs within RECALL_S."""
    try:
        note = json.loads((root / f"{group}{RECALL_SUFFIX}").read_text())
        fresh = 0 <= time.time() - note["at"] < RECALL_S
        return str(note["key"]) if fresh and note["signs"] == signs else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def size_bytes(root: Path) -> int:
    """Bytes of all entries."""
    return sum(_size(manifest) for manifest in root.glob(f"*/{MANIFEST}"))


def prune(root: Path, prefix: str, keep: int, idle_s: float = IDLE_S) -> None:
    """Delete entries that begin with `prefix`, except the `keep` used last and those used within `idle_s`."""
    used = sorted(((_last_use(path), path) for path in root.glob(f"{prefix}*/{MANIFEST}")), reverse=True)
    for last_use, manifest in used[keep:]:
        if time.time() - last_use > idle_s:
            shutil.rmtree(manifest.parent, ignore_errors=True)


def _make_room(root: Path, size: int) -> None:
    """Delete idle entries, those unused for longest first, until `size` bytes leave the reserve of the disk free.

    Raises OSError if there is no room for `size` bytes, reserve or not.
    """
    disk = shutil.disk_usage(root)
    free, reserve = disk.free, min(RESERVE_BYTES, int(RESERVE_SHARE * disk.total))
    for last_use, manifest in sorted((_last_use(path), path) for path in root.glob(f"*/{MANIFEST}")):
        if free >= size + reserve or time.time() - last_use <= IDLE_S:
            break
        free += _size(manifest)
        shutil.rmtree(manifest.parent, ignore_errors=True)
    if free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root))


def _size(manifest: Path) -> int:
    try:
        return sum(path.stat().st_size for path in manifest.parent.iterdir())
    except OSError:  # another process deletes it
        return 0


def _last_use(manifest: Path) -> float:
    try:
        return manifest.stat().st_mtime
    except FileNotFoundError:  # another process prunes too
        return 0.0


def _build(root: Path, key: str, build: Callable[[Draft], dict[str, Any]]) -> None:
    """Build beside the entry and rename. The caller holds the lock: leftovers are those of a dead builder."""
    building, damaged = root / f".{key}.building", root / f".{key}.damaged"
    for leftover in (building, damaged):
        shutil.rmtree(leftover, ignore_errors=True)
    building.mkdir()
    try:
        facts = build(Draft(building))
        if (building / SCRATCH).exists():
            shutil.rmtree(building / SCRATCH)
        files = {path.name: _fingerprint(path) for path in sorted(building.glob("*.npy"))}
        manifest = building / MANIFEST
        manifest.write_text(json.dumps({"format": FORMAT, "files": files, "facts": facts}))
        _sync(manifest)
        if (root / key).exists():
            (root / key).rename(damaged)
        building.rename(root / key)
        _sync(root)
    finally:
        shutil.rmtree(building, ignore_errors=True)
        shutil.rmtree(damaged, ignore_errors=True)


def _fingerprint(path: Path) -> tuple[int, int, int]:
    _sync(path)
    status = path.stat()
    return status.st_size, status.st_mtime_ns, _checksum(path)


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _note_failure(lock: int, error: DataError) -> None:
    """Leave in the lock's file why the build failed, for those who wait for the lock."""
    with suppress(OSError):
        os.ftruncate(lock, 0)
        unavailable = isinstance(error, DataUnavailableError)
        note = {"at": time.time(), "error": str(error), "unavailable": unavailable}
        os.pwrite(lock, json.dumps(note).encode(), 0)


def _raise_failure_since(lock: int, asked_at: float) -> None:
    """Raise the DataError of a build that failed while this process waited for it: it would fail in the same way."""
    try:
        note = json.loads(os.pread(lock, LONGEST_NOTE_BYTES, 0))
        failed_since, message = note["at"] >= asked_at, str(note["error"])
        kind = DataUnavailableError if note.get("unavailable") else DataError
    except (OSError, ValueError, KeyError, TypeError):
        return
    if failed_since:
        raise kind(message)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _readable_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is not None and not Path(os.fsdecode(error.filename)).is_relative_to(root):
            raise  # the cache is not the cause
        if error.errno in DISK_FULL_ERRNOS | {errno.EFBIG}:
            raise DataUnavailableError(
                f"no space left for decoded data in the cache {root} ({_free(root)} free); "
                "free some, or choose a cache folder on a larger disk"
            ) from error
        if error.filename is not None or error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DataUnavailableError(
                f"the cache {root} cannot be written ({error.strerror}); the cache root (--cache-root or "
                "RUNG_CACHE_ROOT) must be a folder that the workers may write"
            ) from error
        raise


def _make(root: Path) -> None:
    """The folder of the cache. An error names it, also if one above it is the cause."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        error.filename = str(root)
        raise


def _free(root: Path) -> str:
    try:
        return f"{shutil.disk_usage(root).free / 2**20:.1f} MiB"
    except OSError:
        return "unknown space"
