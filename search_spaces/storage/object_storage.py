"""Object storage: an experiment as objects of a bucket, `scheme://bucket/path`.

Owns the address, the root, the stop signals, and when an experiment exists: while it has its marker. It must not know
what the objects mean, nor one object store: `s3.py`, `gs.py` and `az.py` say what they are.
"""

from __future__ import annotations

import importlib.util
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from search_spaces.layout import NAMES
from search_spaces.storage.bucket import Bucket, ObjectStore
from search_spaces.storage.object_artifacts import MARKER, ObjectArtifacts, check_exists, unless_removed
from search_spaces.storage.object_journal import ObjectJournal

IDENTITY = ".rung-storage"  # the key of an object in the root
LONGEST_IDENTITY = 64


@dataclass(frozen=True)
class ObjectBackend:
    """The storage backend of an object store. Its module has these functions (`search_spaces.storage.base`)."""

    store: ObjectStore

    @property
    def form(self) -> str:
        """The address of a bucket, for a rule."""
        return f"{self.store.scheme}://{self.store.bucket}"

    def check_root(self, address: str) -> str:
        """`scheme://bucket` or `scheme://bucket/path`, without a `/` at the end."""
        try:
            checked = self.bucket_of(address).address()
        except ValueError as error:
            raise ValueError(f"{error} (got {address!r})") from None
        if missing := missing_package():
            raise ValueError(f"{self.store.scheme}:// {missing} for the service and on each node")
        return checked

    def bucket_of(self, address: str) -> Bucket:
        """The objects below an address. Raises ValueError, with the rule only."""
        pattern = rf"{self.store.scheme}://({self.store.bucket_name})((?:/[\w.=-]+)*)/*"
        found = re.fullmatch(pattern, address, re.ASCII)
        if found is None or {".", ".."} & set(address.split("/")):
            raise ValueError(
                f"must be {self.form} or {self.form}/PATH, with letters, digits and _ . = - in the names of the path"
            )
        return Bucket(self.store, found[1], found[2].strip("/"))

    def open_root(self, address: str) -> ObjectRoot:
        return ObjectRoot(self.bucket_of(address))

    def open_storage(self, address: str) -> ObjectStorage:
        return ObjectStorage(self.bucket_of(address))


@dataclass(frozen=True)
class ObjectRoot:
    """Its identity is an object. The bucket must exist."""

    bucket: Bucket

    @property
    def identity_address(self) -> str:
        return self.bucket.address(IDENTITY)

    def exists(self) -> bool:
        try:
            return any(True for _ in self.bucket.objects())
        except FileNotFoundError:
            return False

    def identity(self) -> str | None:
        try:
            content = self.bucket.get(IDENTITY, LONGEST_IDENTITY)[1]
        except FileNotFoundError:
            return None
        return (content or b"").decode("ascii", "replace").strip() or None

    def identify(self, identity: str) -> str:
        with suppress(FileExistsError):  # of two services that start at once, one is the first
            self.bucket.create(IDENTITY, f"{identity}\n".encode())
        if found := self.identity():
            return found
        self.bucket.put(IDENTITY, f"{identity}\n".encode())
        return identity


@dataclass(frozen=True)
class ObjectStorage:
    """The objects of one experiment. It may not exist."""

    bucket: Bucket

    @cached_property
    def journal(self) -> ObjectJournal:
        return ObjectJournal(self.bucket)

    @cached_property
    def artifacts(self) -> ObjectArtifacts:
        return ObjectArtifacts(self.bucket)

    def stop_signal(self, trial: int) -> ObjectStopSignal:
        return ObjectStopSignal(self.bucket, NAMES.trial(trial).stop.as_posix())

    def create(self) -> None:
        self.bucket.above().head(IDENTITY)
        self.bucket.put(MARKER, b"")

    def free_bytes(self) -> int | None:
        return None

    def remove(self) -> None:
        """The marker first: what is written from then on is deleted by its writer."""
        self.bucket.delete([MARKER])
        self.bucket.delete([found.key for found in self.bucket.objects()])


class ObjectStopSignal:
    """An object that each request replaces by another random text."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self._bucket, self._key = bucket, key
        self._cleared = self._request()

    def ask(self) -> None:
        check_exists(self._bucket)
        with unless_removed(self._bucket, self._key):
            self._bucket.put(self._key, secrets.token_hex(16).encode())

    def asked(self) -> bool:
        found = self._request()
        return found is not None and found != self._cleared

    def clear(self) -> None:
        self._cleared = self._request()

    def _request(self) -> str | None:
        """The version of the object. None also while the store cannot be reached."""
        try:
            return self._bucket.head(self._key).version
        except OSError:
            return None


def missing_package() -> str:
    """What to do before a bucket can be opened, or ""."""
    if importlib.util.find_spec("obstore") is not None:
        return ""
    return "needs the package obstore: pip install 'rung[bucket]'"
