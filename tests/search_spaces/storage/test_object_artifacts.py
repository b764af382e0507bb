"""Artifacts in a bucket: logs that grow in parts, large files that are read in blocks, and odd names."""

from __future__ import annotations

import errno
import os
import time
from pathlib import PurePath

import pytest

from search_spaces.storage import object_artifacts
from search_spaces.storage.base import open_root, open_storage
from search_spaces.storage.object_storage import ObjectStorage
from tests.support.contracts.artifact_store import content

LOG = PurePath("logs/driver-a1.log")
WEIGHTS = PurePath("trials/00000/last.pt")


@pytest.fixture
def storage(object_root: str) -> ObjectStorage:
    open_root(object_root).identify("a3f0")
    storage = open_storage(f"{object_root}/k3v9q2mz")
    storage.create()
    return storage


def test_a_log_is_read_while_it_is_written(storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_artifacts, "UPLOAD_S", 0.02)
    with storage.artifacts.open_appender(LOG) as log:
        for text in (b"one\n", b"one\ntwo\n"):
            log.write(text[-4:])
            deadline = time.monotonic() + 20
            while not storage.artifacts.exists(LOG) or content(storage.artifacts, LOG) != text:
                assert time.monotonic() < deadline
                time.sleep(0.02)


def test_a_long_log_has_several_parts_that_are_one_file(
    storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_artifacts, "PART_BYTES", 10)
    lines = [b"line %d\n" % number for number in range(9)]
    with storage.artifacts.open_appender(LOG) as log:
        for line in lines:
            log.write(line)
    assert len(list(storage.bucket.objects())) > 4
    assert [(item.name, item.size_bytes) for item in storage.artifacts.list()] == [(LOG, 63)]
    with storage.artifacts.open_reader(LOG) as file:
        assert file.seek(0, os.SEEK_END) == 63
        file.seek(12)
        assert file.read(20) == b"".join(lines)[12:32]
        assert file.read() == b"".join(lines)[32:]
    storage.artifacts.remove(LOG)
    assert not storage.artifacts.exists(LOG)
    assert list(storage.artifacts.list()) == []


def test_two_processes_append_to_one_file(storage: ObjectStorage) -> None:
    with storage.artifacts.open_appender(LOG) as one, storage.artifacts.open_appender(LOG) as other:
        one.write(b"one\n")
        other.write(b"other\n")
    assert sorted(content(storage.artifacts, LOG).splitlines()) == [b"one", b"other"]


def test_a_large_file_is_read_in_blocks_while_it_stays(storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_artifacts, "IN_MEMORY_BYTES", 100)
    monkeypatch.setattr(object_artifacts, "BLOCK_BYTES", 64)
    weights = bytes(range(256))
    storage.artifacts.write(WEIGHTS, weights)
    assert content(storage.artifacts, WEIGHTS) == weights
    with storage.artifacts.open_reader(WEIGHTS) as file:
        assert file.read(10) == weights[:10]
        storage.artifacts.write(WEIGHTS, weights[::-1])
        file.seek(200)
        with pytest.raises(OSError, match="was replaced meanwhile") as failure:
            file.read(10)
    assert failure.value.errno == errno.ESTALE


@pytest.mark.parametrize("name", ["a b.txt", "ä.txt", "50%.txt", "a#b?.txt", "a~[b].txt", "deep/er/x"])
def test_files_of_a_folder_may_have_odd_names(storage: ObjectStorage, name: str) -> None:
    model = PurePath("model")
    with storage.artifacts.replace_folder(model) as folder:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"w")
    assert [item.name for item in storage.artifacts.list()] == [model / name]
    with storage.artifacts.local_folder(model) as folder:
        assert (folder / name).read_bytes() == b"w"
    storage.artifacts.remove(model / name)
    assert list(storage.artifacts.list()) == []
