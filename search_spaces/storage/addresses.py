"""Addresses of buckets, of whichever object store. It must not know a store: each is a module with a `BACKEND`."""

from __future__ import annotations

from functools import cache

from search_spaces.storage.base import backends
from search_spaces.storage.bucket import Bucket
from search_spaces.storage.object_storage import ObjectBackend


def is_in_bucket(path: str) -> bool:
    return _scheme(path) in _stores()


def bucket_of(address: str) -> Bucket:
    """The objects below an address. Raises ValueError, with the rule only."""
    if not is_in_bucket(address):
        raise ValueError(f"must be {forms()}")
    return _stores()[_scheme(address)].bucket_of(address)


def forms() -> str:
    """The addresses that there may be, for a rule."""
    return " or ".join(f"{backend.form}/PATH" for backend in _stores().values())


def _scheme(address: str) -> str:
    scheme, separator, _ = address.partition("://")
    return scheme if separator else ""


@cache
def _stores() -> dict[str, ObjectBackend]:
    return {scheme: module.BACKEND for scheme, module in backends().items() if hasattr(module, "BACKEND")}
