"""Bucket: the objects of a bucket below a prefix, by obstore.

Owns the requests and their errors, which are OSErrors with the numbers that a file system would give. Credentials and
the endpoint are obstore's: the variables of the process, or the role of its machine. It must not know what an object
means. obstore is imported only where it is used: installations with folders need none.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obstore import GetOptions, UpdateVersion
    from obstore.store import AzureStore, GCSStore, S3Store

    Client = AzureStore | GCSStore | S3Store

#: A request that fails is repeated for this time: longer than a restart of a server, shorter than users wait.
RETRY = timedelta(seconds=20)
CONNECT, REQUEST = timedelta(seconds=5), timedelta(seconds=60)
PART_BYTES = 2**26  # larger objects are uploaded in parts
CONCURRENT = 16  # requests of one call
LONGEST_REASON = 300  # characters of the library's message
#: What the stores answer where a list has no bucket.
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")


@dataclass(frozen=True)
class ObjectStore:
    """What differs between object stores.

    `bucket` is its word for one, in a rule, and `bucket_name` a regular expression. `client` is the name of obstore's
    class, `variables` the beginning of the environment variables that it reads, and `endpoints` those of them that name
    another server.
    """

    scheme: str
    bucket: str
    bucket_name: str
    client: str
    variables: str
    endpoints: tuple[str, ...]


@dataclass(frozen=True)
class Object:
    """`version` identifies the content, and so does `generation` in a store that replaces objects by it.

    A list gives no generation.
    """

    key: str
    size_bytes: int
    version: str
    generation: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Bucket:
    """Keys are relative to `prefix`, which is empty or has no `/` at its ends.

    All methods raise OSError: FileNotFoundError for an object or bucket that does not exist.
    """

    store: ObjectStore
    name: str
    prefix: str

    def above(self) -> Bucket:
        """The objects below the folder that `prefix` is in."""
        return Bucket(self.store, self.name, self.prefix.rpartition("/")[0])

    def address(self, key: str = "") -> str:
        return f"{self.store.scheme}://{'/'.join(filter(None, (self.name, self.prefix, key)))}"

    def put(self, key: str, content: bytes | memoryview) -> None:
        """Create or replace an object in one step."""
        with self._naming(key) as store:
            store.put(self._path(key), content, chunk_size=PART_BYTES)

    def create(self, key: str, content: bytes) -> None:
        """Raises FileExistsError if there is one. After another error, it may have been created."""
        with self._naming(key) as store:
            store.put(self._path(key), content, mode="create")

    def replace(self, found: Object, content: bytes) -> None:
        """Replace an object that was got, if it still has that version; else an OSError with ESTALE."""
        expected: UpdateVersion = {"e_tag": found.version}
        if found.generation:
            expected["version"] = found.generation
        with self._naming(found.key) as store:
            store.put(self._path(found.key), content, mode=expected)

    def head(self, key: str) -> Object:
        with self._naming(key) as store:
            return self._object(store.head(self._path(key)))

    def exists(self, key: str) -> bool:
        try:
            self.head(key)
        except FileNotFoundError:
            return False
        return True

    def get(self, key: str, limit_bytes: int | None = None) -> tuple[Object, bytes | None]:
        """An object and its content, None if that has more than `limit_bytes`."""
        with self._naming(key) as store:
            found = store.get(self._path(key))
            described = self._object(found.meta)
            if limit_bytes is not None and described.size_bytes > limit_bytes:
                return described, None
            return described, bytes(found.bytes())

    def get_range(self, key: str, start: int, end: int, version: str | None) -> bytes:
        """Bytes `start` to `end` (exclusive), where the object has some; ESTALE if it has another version."""
        options: GetOptions = {"range": (start, end)}
        if version:
            options["if_match"] = version
        with self._naming(key) as store:
            return bytes(store.get(self._path(key), options=options).bytes())

    def get_all(self, keys: Iterable[str]) -> list[bytes | None]:
        """The contents of objects in the order of their keys; None for those that do not exist."""

        def one(key: str) -> bytes | None:
            try:
                return self.get(key)[1]
            except FileNotFoundError:
                return None

        asked = list(keys)
        if len(asked) < 2:
            return [one(key) for key in asked]
        with ThreadPoolExecutor(min(CONCURRENT, len(asked))) as threads:
            return list(threads.map(one, asked))

    def objects(self, folder: str = "", after: str | None = None) -> Iterator[Object]:
        """The objects below a folder, in the order of their keys; only those after the key `after`."""
        prefix = f"{self.prefix}/{folder}".strip("/")
        with self._naming(folder) as store:
            for some in store.list(
                f"{prefix}/" if prefix else None, offset=None if after is None else self._path(after)
            ):
                for found in map(self._object, some):
                    if after is None or found.key > after:  # Azurite ignores the offset, and lists all
                        yield found

    def copy(self, key: str, new_key: str) -> None:
        """The copy replaces another object in one step."""
        with self._naming(key) as store:
            store.copy(self._path(key), self._path(new_key))

    def delete(self, keys: Sequence[str]) -> None:
        """Objects that do not exist are skipped."""

        def one(key: str) -> None:
            with suppress(FileNotFoundError), self._naming(key) as store:
                store.delete(self._path(key))

        try:
            if keys:
                with self._naming(keys[0]) as store:
                    store.delete([self._path(key) for key in keys])
        except FileNotFoundError:  # only S3 skips them, and others may have deleted no other
            with ThreadPoolExecutor(CONCURRENT) as threads:
                for _ in threads.map(one, keys):
                    pass

    def _path(self, key: str) -> str:
        return f"{self.prefix}/{key}".strip("/")

    def _object(self, meta: Any) -> Object:
        version = meta["e_tag"] or ""
        if version and not version.endswith('"'):
            version = f'"{version}"'  # in Azure's lists
        return Object(meta["path"][len(self.prefix) :].lstrip("/"), meta["size"], version, meta["version"])

    @contextmanager
    def _naming(self, key: str) -> Iterator[Client]:
        """The store. In the block, obstore's errors become OSErrors that name the object."""
        from obstore import exceptions

        try:
            yield _client(self.store, self.name, os.getpid())
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, "no such object or bucket", self.address(key)) from None
        except exceptions.AlreadyExistsError:
            raise FileExistsError(errno.EEXIST, "the object exists", self.address(key)) from None
        except exceptions.PreconditionError:
            raise OSError(errno.ESTALE, "the object was replaced meanwhile", self.address(key)) from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
            raise PermissionError(errno.EACCES, "the credentials do not allow it", self.address(key)) from None
        except exceptions.BaseError as error:
            if any(code in str(error) for code in NO_BUCKET):
                raise FileNotFoundError(errno.ENOENT, "no such bucket", self.address(key)) from None
            reason = str(error).partition("\n")[0][:LONGEST_REASON]
            raise OSError(errno.EIO, f"the request failed: {reason}", self.address(key)) from error


@lru_cache(maxsize=4)
def _client(store: ObjectStore, bucket: str, process: int) -> Client:
    """One for each process: a child process has none of the library's threads."""
    from obstore import store as clients

    plain = any(os.environ.get(name, "").startswith("http://") for name in store.endpoints)  # who names it, means it
    client: Client = getattr(clients, store.client)(
        bucket,
        client_options={"connect_timeout": CONNECT, "timeout": REQUEST, "allow_http": plain},
        retry_config={"retry_timeout": RETRY},
    )
    return client
