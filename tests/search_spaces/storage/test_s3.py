"""S3 storage keeps the contract of storages over a real server; addresses, and a server that cannot be reached."""

from __future__ import annotations

from datetime import timedelta

import pytest

from search_spaces.storage import bucket
from search_spaces.storage.base import UNUSABLE_ERRNOS, check_root, open_root, open_storage
from tests.support.contracts.storage import StorageContract
from tests.support.s3_server import BUCKET


class TestS3Storage(StorageContract):
    @pytest.fixture
    def root(self, s3_root: str) -> str:
        return s3_root


@pytest.mark.parametrize("address", ["s3://rung", "s3://rung/team-a/x.y", "s3://rung/a=b/"])
def test_an_address_may_have_a_path(address: str) -> None:
    assert check_root(address) == address.rstrip("/")


@pytest.mark.parametrize(
    "address",
    ["s3://", "s3:///path", "s3://Rung", "s3://key:secret@rung", "s3://rung/a b", "s3://rung/../x", "s3://rung//x"],
)
def test_another_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"must be s3://BUCKET or s3://BUCKET/PATH"):
        check_root(address)


def test_a_bucket_that_is_missing_is_no_place_for_experiments(s3_server: None) -> None:
    root = open_root("s3://no-such-bucket/here")
    assert not root.exists()
    assert root.identity() is None
    with pytest.raises(FileNotFoundError):
        root.identify("a3f0")
    with pytest.raises(FileNotFoundError):
        open_storage("s3://no-such-bucket/here/k3v9q2mz").create()


def test_experiments_may_be_at_the_top_of_a_bucket(s3_server: None) -> None:
    open_root(f"s3://{BUCKET}").identify("a3f0")
    storage = open_storage(f"s3://{BUCKET}/k3v9q2mz")
    storage.create()
    storage.remove()


def test_a_server_that_cannot_be_reached_makes_the_storage_unusable(
    s3_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(bucket, "RETRY", timedelta(milliseconds=50))
    bucket._store.cache_clear()
    try:
        with pytest.raises(OSError, match="the request failed") as failure:
            open_root(s3_root).identity()
    finally:
        bucket._store.cache_clear()
    assert failure.value.errno in UNUSABLE_ERRNOS
