"""S3 storage: an experiment as objects of a bucket, `s3://bucket/path`.

Owns the address, the root, the stop signals, and when an experiment exists: while it has its marker. It must not know
what the objects mean.
"""

from __future__ import annotations

import importlib.util
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from search_spaces.layout import NAMES
from search_spaces.storage.bucket import Bucket
from search_spaces.storage.object_artifacts import MARKER, ObjectArtifacts, check_exists, unless_removed
from search_spaces.storage.object_journal import ObjectJournal

SCHEME = "s3://"
IDENTITY = ".rung-storage"  # the key of an object in the root
LONGEST_IDENTITY = 64
_ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[\w.=-]+)*)/*", re.ASCII)


def check_root(address: str) -> str:
    """`s3://bucket` or `s3://bucket/path`, without a `/` at the end."""
    try:
        checked = bucket_of(address).address()
    except ValueError as error:
        raise ValueError(f"{error} (got {address!r})") from None
    if importlib.util.find_spec("obstore") is None:
        raise ValueError(f"{SCHEME} needs the package obstore: pip install 'rung[s3]' for the service and on each node")
    return checked


def bucket_of(address: str) -> Bucket:
    """The objects below an address. Raises ValueError, with the rule only."""
    found = _ADDRESS.fullmatch(address)
    if found is None or {".", ".."} & set(address.split("/")):
        raise ValueError(
            "must be s3://BUCKET or s3://BUCKET/PATH, with letters, digits and _ . = - in the names of the path"
        )
    return Bucket(found[1], found[2].strip("/"))


def open_storage(address: str) -> S3Storage:
    return S3Storage(bucket_of(address))


def open_root(address: str) -> S3Root:
    return S3Root(bucket_of(address))


@dataclass(frozen=True)
class S3Root:
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
class S3Storage:
    """The objects of one experiment. It may not exist."""

    bucket: Bucket

    @cached_property
    def journal(self) -> ObjectJournal:
        return ObjectJournal(self.bucket)

    @cached_property
    def artifacts(self) -> ObjectArtifacts:
        return ObjectArtifacts(self.bucket)

    def stop_signal(self, trial: int) -> S3StopSignal:
        return S3StopSignal(self.bucket, NAMES.trial(trial).stop.as_posix())

    def create(self) -> None:
        root, _, _ = self.bucket.prefix.rpartition("/")
        Bucket(self.bucket.name, root).head(IDENTITY)
        self.bucket.put(MARKER, b"")

    def free_bytes(self) -> int | None:
        return None

    def remove(self) -> None:
        """The marker first: what is written from then on is deleted by its writer."""
        self.bucket.delete([MARKER])
        self.bucket.delete([found.key for found in self.bucket.objects()])


class S3StopSignal:
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
