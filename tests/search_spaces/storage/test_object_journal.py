"""The journal in a bucket: fenced also where lines were merged, and repaired where objects are missing or damaged."""

from __future__ import annotations

from pathlib import PurePath

import pytest

from search_spaces.storage import object_journal
from search_spaces.storage.base import BEGINNING, JournalDamagedError, WriterFencedError, open_root, open_storage
from search_spaces.storage.bucket import Bucket
from search_spaces.storage.object_journal import ObjectJournal, chunk_key, line_key
from search_spaces.storage.object_storage import ObjectStorage
from tests.support.contracts.journal_backend import read_all

CHUNK = 4


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_journal, "CHUNK_LINES", CHUNK)


@pytest.fixture
def storage(object_root: str) -> ObjectStorage:
    open_root(object_root).identify("a3f0")
    storage = open_storage(f"{object_root}/k3v9q2mz")
    storage.create()
    return storage


@pytest.fixture
def journal(storage: ObjectStorage) -> ObjectJournal:
    return storage.journal


def keys(journal: ObjectJournal) -> list[str]:
    return [found.key for found in journal.bucket.objects(object_journal.FOLDER)]


def write(journal: ObjectJournal, writer: int, *numbers: int) -> None:
    opened = journal.open_writer(writer)
    for number in numbers:
        opened.append({"n": number})


def numbers(journal: ObjectJournal) -> list[int]:
    return [entry["n"] for entry in journal.entries()]


def test_lines_are_merged(journal: ObjectJournal) -> None:
    write(journal, 1, *range(6))
    write(journal, 2, *range(6, 10))
    alone = [0, 6, 8, 9]  # the first line of each writer, and those of the last chunk
    assert keys(journal) == [chunk_key(0), chunk_key(1), *map(line_key, alone)]
    assert numbers(journal) == list(range(10))
    assert [entry["n"] for entry in read_all(journal)] == list(range(10))


def test_a_writer_that_was_suspended_is_fenced_though_all_lines_were_merged(journal: ObjectJournal) -> None:
    suspended = journal.open_writer(1)
    suspended.append({"n": 0})
    write(journal, 2, *range(1, 12))
    with pytest.raises(WriterFencedError, match="writer 2 has started, so writer 1 must not write"):
        suspended.append({"n": 99})
    with pytest.raises(WriterFencedError):
        suspended.check_not_fenced()
    assert numbers(journal) == list(range(12))


def test_a_reader_continues_where_lines_were_merged_meanwhile(journal: ObjectJournal) -> None:
    writer = journal.open_writer(1)
    for number in range(3):
        writer.append({"n": number})
    entries, position = journal.read()
    assert len(entries) == 3
    for number in range(3, 9):
        writer.append({"n": number})
    assert [entry["n"] for entry in read_all(journal, position)] == list(range(3, 9))
    assert journal.stands(position)


def test_what_an_earlier_writer_adds_before_the_first_line_of_the_next_is_kept(journal: ObjectJournal) -> None:
    earlier, later = journal.open_writer(1), journal.open_writer(2)
    earlier.append({"n": 0})
    earlier.append({"n": 1})
    later.append({"n": 2})
    with pytest.raises(WriterFencedError):
        earlier.append({"n": 99})
    assert numbers(journal) == [0, 1, 2]


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"line":1'], ids=["missing", "empty", "another", "cut"])
def test_what_follows_a_lost_line_is_lost_and_the_journal_continues(
    journal: ObjectJournal, content: bytes | None
) -> None:
    write(journal, 1, *range(3))
    position = journal.read()[1]
    if content is None:
        journal.bucket.delete([line_key(1)])
    else:
        journal.bucket.put(line_key(1), content)
    with pytest.raises(JournalDamagedError, match=r"journal-line-000000000001: it is missing or is not"):
        journal.entries()
    assert [entry["n"] for entry in journal.read()[0]] == [0]
    with pytest.raises(JournalDamagedError):
        read_all(journal)
    write(journal, 2, 10, 11, 12)
    assert numbers(journal) == [0, 10, 11, 12]
    assert [entry["n"] for entry in read_all(journal)] == [0, 10, 11, 12]
    assert not journal.stands(position)
    assert journal.stands(BEGINNING)
    assert journal.stands(read_position(journal))


def read_position(journal: ObjectJournal) -> object_journal.Position:
    position = BEGINNING
    while (found := journal.read(position)[1]) != position:
        position = found
    return position


def test_a_chunk_that_is_missing_is_a_loss(journal: ObjectJournal) -> None:
    write(journal, 1, *range(10))
    journal.bucket.delete([chunk_key(1)])
    with pytest.raises(JournalDamagedError):
        journal.entries()
    write(journal, 2, 20)
    assert numbers(journal) == [0, 1, 2, 3, 20]


def test_a_line_whose_answer_was_lost_is_added_once(journal: ObjectJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library repeats requests: the second one finds what the first one has created."""
    writer = journal.open_writer(1)
    create = Bucket.create

    def twice(bucket: Bucket, key: str, content: bytes) -> None:
        create(bucket, key, content)
        create(bucket, key, content)

    monkeypatch.setattr(Bucket, "create", twice)
    writer.append({"n": 0})
    writer.append({"n": 1})
    assert numbers(journal) == [0, 1]


def test_a_line_that_failed_is_replaced_though_it_was_created(
    journal: ObjectJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = journal.open_writer(1)
    writer.append({"n": 0})
    create = Bucket.create

    def failing(bucket: Bucket, key: str, content: bytes) -> None:
        create(bucket, key, content)
        raise OSError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "create", failing)
        with pytest.raises(OSError, match="no answer"):
            writer.append({"n": 1})
    writer.append({"n": 2})
    writer.append({"n": 3})
    assert numbers(journal) == [0, 2, 3]


def test_a_driver_that_outlives_its_experiment_leaves_no_line(storage: ObjectStorage) -> None:
    writer = storage.journal.open_writer(1)
    writer.append({"n": 0})
    storage.remove()
    with pytest.raises(FileNotFoundError):
        writer.append({"n": 1})
    assert not storage.journal.exists()
    assert list(storage.artifacts.list(PurePath())) == []
