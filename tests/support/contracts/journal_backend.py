"""The contract of a `JournalBackend`. A backend's test inherits the class and overrides the fixture `journal`."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest

from search_spaces.storage.base import BEGINNING, Entry, JournalBackend, Position, WriterFencedError


def read_all(journal: JournalBackend, after: Position = BEGINNING, limit_bytes: int = 1 << 20) -> list[Entry]:
    """All entries after a position, read block by block as a follower does."""
    found: list[Entry] = []
    while True:
        entries, position = journal.read(after, limit_bytes)
        if position == after:
            return found
        found += entries
        after = position


class JournalBackendContract:
    @pytest.fixture
    def journal(self) -> JournalBackend:
        """An empty journal that does not exist yet."""
        raise NotImplementedError

    def test_a_journal_that_does_not_exist_has_no_entries(self, journal: JournalBackend) -> None:
        assert not journal.exists()
        assert list(journal.entries()) == []
        assert journal.read(Position(0, 3)) == ([], Position(0, 3))

    def test_entries_are_read_in_the_order_of_their_writing(self, journal: JournalBackend) -> None:
        written = [{"n": number, "x": [0.1, None, "ä\n"]} for number in range(50)]
        writer = journal.open_writer(1)
        for entry in written:
            writer.append(entry, sync=entry["n"] == 0)
        writer.close()
        assert journal.exists()
        assert list(journal.entries()) == written

    def test_blocks_are_read_one_after_the_other(self, journal: JournalBackend) -> None:
        writer = journal.open_writer(1)
        for number in range(20):
            writer.append({"n": number, "text": "x" * (number * 37)})
        writer.close()
        assert [entry["n"] for entry in read_all(journal, limit_bytes=64)] == list(range(20))

    def test_positions_grow(self, journal: JournalBackend) -> None:
        writer = journal.open_writer(1)
        positions = [BEGINNING]
        for number in range(3):
            writer.append({"n": number})
            positions.append(journal.read(positions[-1])[1])
        writer.close()
        assert all(earlier.offset < later.offset for earlier, later in pairwise(positions))
        assert all(journal.stands(position) for position in positions)

    def test_several_entries_are_added_at_once(self, journal: JournalBackend) -> None:
        writer = journal.open_writer(1)
        writer.append_all([{"n": 0}, {"n": 1}])
        writer.close()
        assert list(journal.entries()) == [{"n": 0}, {"n": 1}]

    def test_a_later_writer_fences_an_earlier_one(self, journal: JournalBackend) -> None:
        earlier = journal.open_writer(1)
        earlier.append({"n": "earlier"})
        later = journal.open_writer(2)
        later.append({"n": "later"})
        with pytest.raises(WriterFencedError):
            earlier.append({"n": "void"})
        with pytest.raises(WriterFencedError):
            earlier.append_all([{"n": "void"}])
        with pytest.raises(WriterFencedError):
            earlier.check_not_fenced()
        with pytest.raises(WriterFencedError):
            journal.open_writer(1)
        later.check_not_fenced()
        earlier.close()
        later.close()
        assert list(journal.entries()) == [{"n": "earlier"}, {"n": "later"}]
        assert journal.read()[1].writer == 2

    def test_threads_share_a_writer(self, journal: JournalBackend) -> None:
        writer = journal.open_writer(1)

        def write(name: int) -> None:
            for number in range(100):
                writer.append({"thread": name, "n": number})

        threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.close()
        entries = list(journal.entries())
        assert len(entries) == 400
        for name in range(4):
            assert [entry["n"] for entry in entries if entry["thread"] == name] == list(range(100))
