"""A bucket does what the journal and the artifacts rely on, in each object store."""

from __future__ import annotations

import errno
import os

import pytest

from search_spaces.storage import bucket as bucket_module
from search_spaces.storage.addresses import bucket_of
from search_spaces.storage.bucket import Bucket

LEAST_PART_BYTES = 5 * 2**20  # that the stores allow


@pytest.fixture
def bucket(object_root: str) -> Bucket:
    return bucket_of(object_root)


def test_an_object_is_created_once(bucket: Bucket) -> None:
    bucket.create("a", b"one")
    with pytest.raises(FileExistsError):
        bucket.create("a", b"two")
    assert bucket.get("a")[1] == b"one"


def test_an_object_is_replaced_if_it_has_the_version_that_was_read(bucket: Bucket) -> None:
    bucket.create("a", b"one")
    found = bucket.get("a")[0]
    bucket.replace(found, b"two")
    with pytest.raises(OSError, match="replaced meanwhile") as failure:
        bucket.replace(found, b"three")
    assert failure.value.errno == errno.ESTALE
    assert bucket.get("a")[1] == b"two"


def test_a_part_is_read_of_the_version_that_was_read_first(bucket: Bucket) -> None:
    bucket.put("a", b"0123456789")
    version = bucket.get("a")[0].version
    assert bucket.get_range("a", 3, 5, version) == b"34"
    assert bucket.get_range("a", 8, 20, version) == b"89"
    bucket.put("a", b"9876543210")
    assert bucket.get_range("a", 3, 5, None) == b"65"
    with pytest.raises(OSError, match="replaced meanwhile") as failure:
        bucket.get_range("a", 3, 5, version)
    assert failure.value.errno == errno.ESTALE


def test_a_list_has_what_is_below_a_folder_in_order_with_its_versions(bucket: Bucket) -> None:
    keys = [f"journal/line-{number}" for number in range(5)]
    for key in [*reversed(keys), "journals/x", "journal.txt"]:
        bucket.put(key, key.encode())
    listed = list(bucket.objects("journal"))
    assert [found.key for found in listed] == keys
    assert listed == [bucket.head(key) for key in keys] == [bucket.get(key)[0] for key in keys]
    assert [found.key for found in bucket.objects("journal", after=keys[2])] == keys[3:]
    assert [found.key for found in bucket.objects("journal", after="journal/line-2.5")] == keys[3:]
    assert list(bucket.objects("journal", after=keys[-1])) == []


def test_objects_that_are_missing_are_skipped_when_others_are_deleted(bucket: Bucket) -> None:
    for key in ("a", "b", "c"):
        bucket.put(key, b"")
    bucket.delete(["none", "a", "no/such", "b"])
    assert [found.key for found in bucket.objects()] == ["c"]
    bucket.delete(["none"])
    bucket.delete([])


def test_a_copy_replaces_an_object(bucket: Bucket) -> None:
    bucket.put("a", b"new")
    bucket.put("b", b"old")
    bucket.copy("a", "b")
    assert bucket.get("b")[1] == b"new"
    with pytest.raises(FileNotFoundError):
        bucket.copy("none", "b")


def test_a_large_object_is_uploaded_in_parts(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "PART_BYTES", LEAST_PART_BYTES)
    content = os.urandom(2 * LEAST_PART_BYTES + 10)
    bucket.put("a", content)
    found, present = bucket.get("a")
    assert present == content
    assert found.size_bytes == len(content)
