"""Artifacts as objects of a bucket.

Owns how a file is kept: one that is written at once is one object; one that is appended to is a series of parts below
`NAME.parts/`, each with the offset at which it begins in its key, because an object cannot grow. It must not know what
a file means.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

from search_spaces.storage.base import Artifact, check_name
from search_spaces.storage.bucket import CONCURRENT, Bucket, Object

#: An empty object that says that an experiment exists.
MARKER = ".experiment"
PARTS = ".parts/"
PART_BYTES = 2**20  # a part of an appended file is uploaded again until it has this size
UPLOAD_S = 2.0  # how often what was appended is uploaded
IN_MEMORY_BYTES = 2**26  # a larger file is read in blocks
BLOCK_BYTES = 2**23


class ObjectArtifacts:
    """The artifacts of the experiment at `bucket`."""

    is_remote = True

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def exists(self, name: PurePath) -> bool:
        return self._bucket.exists(_key(name)) or bool(self._parts(name))

    def open_reader(self, name: PurePath) -> BinaryIO:
        try:
            found, content = self._bucket.get(_key(name), IN_MEMORY_BYTES)
        except FileNotFoundError:
            parts = self._parts(name)
            if not parts:
                raise
            return _buffered(_Reader(self._bucket, parts, pinned=False), PART_BYTES)
        if content is not None:
            return io.BytesIO(content)
        return _buffered(_Reader(self._bucket, [found], pinned=True), BLOCK_BYTES)

    def open_appender(self, name: PurePath) -> BinaryIO:
        check_exists(self._bucket)
        size = sum(part.size_bytes for part in self._parts(name))
        return cast(BinaryIO, _Appender(lambda key, content: self._write(key, content), _key(name), size))

    def write(
        self, name: PurePath, content: bytes | memoryview, *, private: bool = False, durable: bool = True
    ) -> None:
        """An object is always durable, and who may read it is a matter of the bucket."""
        self._write(_key(name), content)

    def rotate(self, name: PurePath, content: bytes | memoryview, previous: PurePath) -> None:
        """If the upload fails, `previous` may be a copy of the file already."""
        with unless_removed(self._bucket, _key(name), _key(previous)):
            with suppress(FileNotFoundError):
                self._bucket.copy(_key(name), _key(previous))
            self._bucket.put(_key(name), content)

    def list(self, folder: PurePath | None = None) -> Iterator[Artifact]:
        objects = self._bucket.objects("" if folder is None else _key(folder))
        for name, some in groupby(objects, lambda found: found.key.partition(PARTS)[0]):
            if name != MARKER:
                yield Artifact(PurePath(name), sum(found.size_bytes for found in some))

    def remove(self, name: PurePath) -> None:
        self._bucket.delete([_key(name), *(part.key for part in self._parts(name))])

    @contextmanager
    def replace_folder(self, name: PurePath) -> Iterator[Path]:
        """A reader may see files of both folders while they are uploaded."""
        key = _key(name)
        with tempfile.TemporaryDirectory(prefix="rung-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
            paths = [path for path in Path(folder).rglob("*") if path.is_file()]
            fresh = {f"{key}/{path.relative_to(folder).as_posix()}": path for path in paths}
            with ThreadPoolExecutor(CONCURRENT) as threads:
                for done in [threads.submit(self._write, one, path.read_bytes()) for one, path in fresh.items()]:
                    done.result()
            self._bucket.delete([old.key for old in self._bucket.objects(key) if old.key not in fresh])

    def discard_unfinished(self, name: PurePath) -> None:
        """There is nothing: files are uploaded when all of them are complete."""

    @contextmanager
    def local_folder(self, name: PurePath) -> Iterator[Path]:
        """A copy of the folder, which is deleted after the block."""
        names = [artifact.name for artifact in self.list(name)]
        if not names:
            raise FileNotFoundError(f"no folder {self._bucket.address(_key(name))}")
        with tempfile.TemporaryDirectory(prefix="rung-", ignore_cleanup_errors=True) as folder:
            for one in names:
                path = Path(folder, one.relative_to(name))
                path.parent.mkdir(parents=True, exist_ok=True)
                with self.open_reader(one) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target)
            yield Path(folder)

    def _write(self, key: str, content: bytes | memoryview) -> None:
        with unless_removed(self._bucket, key):
            self._bucket.put(key, content)

    def _parts(self, name: PurePath) -> Sequence[Object]:
        return [*self._bucket.objects(_key(name) + PARTS.rstrip("/"))]


def check_exists(bucket: Bucket) -> None:
    """Raise FileNotFoundError if the experiment does not exist."""
    bucket.head(MARKER)


@contextmanager
def unless_removed(bucket: Bucket, *keys: str) -> Iterator[None]:
    """The block writes objects, which are deleted again if the experiment does not exist.

    The removal of an experiment removes its marker first and then all that is listed. So an object whose marker is
    there after it was written, is in that list.
    """
    yield
    try:
        check_exists(bucket)
    except FileNotFoundError:
        bucket.delete(keys)
        raise


def _key(name: PurePath) -> str:
    check_name(name)
    return "" if name == PurePath() else name.as_posix()


def _buffered(reader: _Reader, block_bytes: int) -> BinaryIO:
    return io.BufferedReader(reader, block_bytes)


class _Reader(io.RawIOBase):
    """Objects one behind the other. Those that are `pinned` must not be replaced meanwhile: else OSError."""

    def __init__(self, bucket: Bucket, parts: Sequence[Object], *, pinned: bool) -> None:
        self._bucket, self._parts, self._pinned = bucket, parts, pinned
        self._size = sum(part.size_bytes for part in parts)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view, start = memoryview(buffer).cast("B"), self._at
        for part in self._parts:
            if start < part.size_bytes:
                end = min(part.size_bytes, start + len(view))
                content = self._bucket.get_range(part.key, start, end, part.version if self._pinned else None)
                view[: len(content)] = content
                self._at += len(content)
                return len(content)
            start -= part.size_bytes
        return 0


class _Appender(io.RawIOBase):
    """Uploads what was written every UPLOAD_S, and when it is closed: a process that is killed loses the rest.

    What cannot be uploaded now is tried again; at the end it is lost, and OSError raised.
    """

    def __init__(self, upload: Callable[[str, bytes], None], key: str, size_bytes: int) -> None:
        self._upload, self._key, self._size = upload, key, size_bytes
        self._uploaded = size_bytes  # the size of the file up to which it is uploaded
        self._lock = threading.Lock()
        self._full: list[tuple[str, bytes]] = []  # parts that grow no more
        self._begin_part()
        self._closing = threading.Event()
        self._changed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"upload {key}", daemon=True)
        self._thread.start()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, content: Any) -> int:
        added = bytes(content)
        with self._lock:
            self._part += added
            self._size += len(added)
            if len(self._part) >= PART_BYTES:
                self._full.append((self._part_key, bytes(self._part)))
                self._begin_part()
        self._changed.set()
        return len(added)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._closing.set()
            self._changed.set()
            self._thread.join()
            self._upload_new()

    def _begin_part(self) -> None:
        """Another process may append to the same file: each has its own parts."""
        self._part = bytearray()
        self._part_key = f"{self._key}{PARTS}{self._size:015d}-{secrets.token_hex(4)}"

    def _run(self) -> None:
        while not self._closing.is_set():
            self._changed.wait()
            self._closing.wait(UPLOAD_S)
            self._changed.clear()
            if not self._closing.is_set():
                try:
                    self._upload_new()
                except FileNotFoundError:  # the experiment was removed
                    return
                except OSError as error:
                    self._changed.set()
                    print(f"the end of {self._key} cannot be uploaded yet: {error}", file=sys.__stderr__)

    def _upload_new(self) -> None:
        with self._lock:
            size, full, last = self._size, list(self._full), (self._part_key, bytes(self._part))
        if size == self._uploaded:
            return
        for part in full:
            self._upload(*part)
            with self._lock:
                self._full.remove(part)
        if last[1]:
            self._upload(*last)
        self._uploaded = size
