"""Object storage keeps the contract of storages over a server of each store; addresses, and a server that is gone."""

from __future__ import annotations

import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from search_spaces.storage import bucket
from search_spaces.storage.addresses import bucket_of
from search_spaces.storage.base import UNUSABLE_ERRNOS, check_root, open_root, open_storage
from tests.support.contracts.storage import StorageContract

FORMS = "must be az://CONTAINER/PATH or gs://BUCKET/PATH or s3://BUCKET/PATH"


class TestObjectStorage(StorageContract):
    @pytest.fixture
    def root(self, object_root: str) -> str:
        return object_root


@pytest.mark.parametrize(
    "address",
    ["s3://rung", "s3://rung/team-a/x.y", "s3://rung/a=b/", "gs://rung_a.b/x", "az://rung/x", f"az://{'a' * 63}"],
)
def test_an_address_may_have_a_path(address: str) -> None:
    assert check_root(address) == address.rstrip("/")
    assert bucket_of(address).address() == address.rstrip("/")


@pytest.mark.parametrize(
    ("scheme", "rests"),
    [
        ("s3", ["", "/path", "Rung", "key:secret@rung", "rung/a b", "rung/../x", "rung//x", "ru_ng"]),
        ("gs", ["", "/path", "Rung", "rung/../x", "rung//x", "_rung"]),
        ("az", ["", "/path", "Rung", "rung/../x", "ru.ng", "ru--ng", "ru", "a" * 64]),
    ],
)
def test_another_address_is_refused(scheme: str, rests: list[str]) -> None:
    word = "CONTAINER" if scheme == "az" else "BUCKET"
    for rest in rests:
        with pytest.raises(ValueError, match=rf"must be {scheme}://{word} or {scheme}://{word}/PATH"):
            check_root(f"{scheme}://{rest}")


@pytest.mark.parametrize("address", ["rung", "tape://rung", "://rung", "folder://rung", "/s3://rung"])
def test_only_object_stores_have_buckets(address: str) -> None:
    with pytest.raises(ValueError, match=FORMS):
        bucket_of(address)


def test_the_extra_keeps_its_first_name() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert extras["s3"] == ["rung[bucket]"]
    assert [one.partition(">")[0] for one in extras["bucket"]] == ["obstore"]


def test_a_bucket_that_is_missing_is_no_place_for_experiments(bucket_address: str) -> None:
    missing = f"{bucket_address.partition('://')[0]}://no-such-bucket/here"
    root = open_root(missing)
    assert not root.exists()
    assert root.identity() is None
    with pytest.raises(FileNotFoundError):
        root.identify("a3f0")
    with pytest.raises(FileNotFoundError):
        open_storage(f"{missing}/k3v9q2mz").create()


def test_experiments_may_be_at_the_top_of_a_bucket(bucket_address: str) -> None:
    open_root(bucket_address).identify("a3f0")
    storage = open_storage(f"{bucket_address}/k3v9q2mz")
    storage.create()
    storage.remove()


def test_a_server_that_cannot_be_reached_makes_the_storage_unusable(
    object_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(bucket_of(object_root).store.endpoints[0], "http://127.0.0.1:9")
    monkeypatch.setattr(bucket, "RETRY", timedelta(milliseconds=50))
    bucket._client.cache_clear()
    try:
        with pytest.raises(OSError, match="the request failed") as failure:
            open_root(object_root).identity()
    finally:
        bucket._client.cache_clear()
    assert failure.value.errno in UNUSABLE_ERRNOS
