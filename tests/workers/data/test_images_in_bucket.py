"""Images in a bucket are the data set that the same files in a folder are, and are read once on each node."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from obstore.store import MemoryStore
from PIL import Image

from search_spaces.datasets import ImageFolder
from search_spaces.datasets.base import DataError, DatasetSpec, DataUnavailableError
from search_spaces.datasets.image_folder import in_bucket
from search_spaces.storage import bucket as bucket_module
from search_spaces.storage.addresses import bucket_of
from search_spaces.storage.bucket import Bucket
from tests.support.contracts.dataset_reader import DatasetReaderContract
from workers.data.splits import Splits, load

CLASSES, IMAGES = ("owl", "wren"), 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data root with a folder `birds`."""
    random = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "data" / "birds" / name).mkdir(parents=True)
        for number in range(IMAGES):
            pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / "birds" / name / f"{number}.png")
    (tmp_path / "data" / "birds" / "owl" / "notes.txt").write_text("seen at night")
    return tmp_path / "data"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket in memory, with the same client: what S3 itself does is tested with the storage."""
    store = MemoryStore()
    monkeypatch.setattr(bucket_module, "_client", lambda *_: store)


@pytest.fixture
def stored(store: None, folder: Path) -> Bucket:
    """The same files as objects."""
    bucket = bucket_of("s3://pictures/birds")
    for path in (folder / "birds").rglob("*.*"):
        bucket.put(path.relative_to(folder / "birds").as_posix(), path.read_bytes())
    return bucket


def dataset_of(bucket: Bucket, **fields: Any) -> ImageFolder:
    return ImageFolder(
        path=bucket.address(), **{"size": 8, "test_fraction": 0.25, "validation_fraction": 0.25} | fields
    )


def read(bucket: Bucket, cache: Path, **fields: Any) -> Splits:
    return load(dataset_of(bucket, **fields), 0, cache.with_name("nowhere"), cache)


@pytest.fixture
def gets(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of the objects that are downloaded."""
    keys: list[str] = []
    get = Bucket.get

    def counted(self: Bucket, key: str, *arguments: Any) -> Any:
        keys.append(key)
        return get(self, key, *arguments)

    monkeypatch.setattr(Bucket, "get", counted)
    return keys


class TestImagesInABucket(DatasetReaderContract):
    @pytest.fixture
    def dataset(self, stored: Bucket) -> DatasetSpec:
        return dataset_of(stored)

    @pytest.fixture
    def data_root(self, tmp_path: Path) -> Path:
        return tmp_path / "nowhere"


def test_they_are_split_and_decoded_as_in_a_folder(stored: Bucket, folder: Path, tmp_path: Path) -> None:
    theirs = load(dataset_of(stored).model_copy(update={"path": "birds"}), 0, folder, tmp_path / "cache")
    ours = read(stored, tmp_path / "cache")
    assert ours.digests == theirs.digests
    assert ours.class_names == theirs.class_names == CLASSES
    assert torch.equal(ours.test()[0], theirs.test()[0])
    assert ours.notes == theirs.notes
    assert any("notes.txt" in note for note in ours.notes)


def test_trials_of_a_node_download_them_once(stored: Bucket, tmp_path: Path, gets: list[str]) -> None:
    found: list[Splits] = []
    trials = [threading.Thread(target=lambda: found.append(read(stored, tmp_path / "cache"))) for _ in range(3)]
    for trial in trials:
        trial.start()
    for trial in trials:
        trial.join()
    assert len(found) == 3
    assert sorted(gets) == sorted(f"{name}/{number}.png" for name in CLASSES for number in range(IMAGES))
    read(stored, tmp_path / "cache")
    assert len(gets) == 2 * IMAGES
    left = [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".png"]
    assert left == [], "the objects are there only while they are decoded"


def test_an_object_that_is_replaced_makes_another_data_set(stored: Bucket, folder: Path, tmp_path: Path) -> None:
    before = read(stored, tmp_path / "cache").digests
    for number in range(IMAGES):
        stored.put(f"owl/{number}.png", (folder / "birds" / "wren" / f"{number}.png").read_bytes())
    stored.put("wren/0.png", (folder / "birds" / "wren" / "1.png").read_bytes())
    assert read(stored, tmp_path / "cache").digests != before


def test_an_object_that_is_replaced_while_it_is_read_is_noticed(
    stored: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download = in_bucket.ImageBucketReader._download

    def replaced(*arguments: Any) -> Any:
        stored.put("owl/3.png", b"something else")
        return download(*arguments)

    monkeypatch.setattr(in_bucket.ImageBucketReader, "_download", replaced)
    with pytest.raises(DataUnavailableError, match=r"s3://.*/owl/3\.png changed while it was read"):
        read(stored, tmp_path / "cache")


def test_a_damaged_object_is_named_by_its_bucket(stored: Bucket, tmp_path: Path) -> None:
    stored.put("owl/3.png", b"no image")
    with pytest.raises(DataError) as raised:
        read(stored, tmp_path / "cache")
    assert not isinstance(raised.value, DataUnavailableError)
    assert f"1 damaged image in {stored.address()}: owl/3.png (" in str(raised.value)
    assert str(tmp_path) not in str(raised.value)
    assert len(read(stored, tmp_path / "cache", damaged="skip").train_images) > 0


def test_names_that_no_file_can_have_are_left_out(
    stored: Bucket, folder: Path, tmp_path: Path, gets: list[str]
) -> None:
    image = (folder / "birds" / "owl" / "0.png").read_bytes()
    for key in ("owl/" + "x" * 300 + ".png", "wren", "owl/.hidden.png"):
        stored.put(key, image)
    notes = read(stored, tmp_path / "cache").notes
    (left_out,) = [note for note in notes if "no files can have" in note]
    assert left_out.startswith("2 objects whose names no files can have were left out")
    assert "owl/.hidden.png" not in gets
    assert any(".hidden.png" in note for note in notes)


def test_a_disk_that_is_too_small_is_not_filled(
    stored: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gets: list[str]
) -> None:
    monkeypatch.setattr(in_bucket, "shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(free=100)))
    with pytest.raises(DataUnavailableError, match="no space left for decoded data in the cache"):
        read(stored, tmp_path / "cache")
    assert gets == []


def test_an_empty_place_is_named(store: None, tmp_path: Path) -> None:
    with pytest.raises(
        DataUnavailableError, match=r"image_folder: there is nothing at s3://pictures/birds; put images"
    ):
        read(bucket_of("s3://pictures/birds"), tmp_path / "cache")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            FileNotFoundError(errno.ENOENT, "no such bucket"),
            r"there is no bucket pictures, in which s3://pictures/x is",
        ),
        (
            PermissionError(errno.EACCES, "not allowed"),
            r"s3://pictures/x cannot be listed \(not allowed\); Ray's nodes need",
        ),
    ],
)
def test_a_bucket_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, expected: str
) -> None:
    def fail(self: Bucket) -> None:
        raise error

    monkeypatch.setattr(Bucket, "objects", fail)
    with pytest.raises(DataUnavailableError, match=expected):
        read(bucket_of("s3://pictures/x"), tmp_path / "cache")
