"""The folder journal: no entry that was appended is lost, no incomplete line is read, only the last writer counts."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.storage import folder_journal
from search_spaces.storage.base import BEGINNING, JournalDamagedError, NotAFileError, Position, WriterFencedError
from search_spaces.storage.folder import FolderStorage
from search_spaces.storage.folder_journal import FolderJournal, FolderJournalWriter

WRITER = """
import sys
from collections.abc import Callable
from pathlib import Path
from search_spaces.storage.folder import FolderStorage
book = FolderStorage(Path(sys.argv[1])).journal.open_writer(1)
number = 0
while True:
    book.append({"n": number, "text": "x" * 200})
    print(number, flush=True)
    number += 1
"""


def journal_of(path: Path) -> FolderJournal:
    return FolderStorage(path.parent).journal


def copy_of(path: Path) -> Path:
    return journal_of(path).copy


def opened(path: Path, writer: int = 1) -> FolderJournalWriter:
    return journal_of(path).open_writer(writer)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_an_appended_entry_survives_the_death_of_its_process(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path.parent)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = -1
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged >= 200:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    opened(path, 2).close()
    numbers = [entry["n"] for entry in journal_of(path).entries()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > acknowledged


MEMORY = """
import resource, sys
from pathlib import Path
from search_spaces.storage.base import JournalDamagedError
from search_spaces.storage.folder import FolderStorage
journal = FolderStorage(Path(sys.argv[1])).journal
usual = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in (lambda: list(journal.entries()), journal.read, lambda: journal.open_writer(2).close()):
    try:
        read()
    except (JournalDamagedError, OSError) as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - usual)
"""


@pytest.mark.parametrize("size", [600 * 2**20, folder_journal.MAX_JOURNAL_BYTES + 1])
def test_a_file_of_any_size_costs_little_memory(path: Path, size: int) -> None:
    """Code that trains can make the journal and its copy so large, without a byte on the disk."""
    before = written(path, 3)
    for file in (path, copy_of(path)):
        os.truncate(file, size)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path.parent)], capture_output=True, text=True, check=True)
    *said, grown_kib = done.stdout.splitlines()
    assert int(grown_kib) < 50_000
    if size > folder_journal.MAX_JOURNAL_BYTES:
        assert all("must have at most 1073741824 bytes" in line for line in (said[0], said[-1]))
        assert path.stat().st_size == size, "nothing of it is lost"
    else:
        assert path.read_bytes() == copy_of(path).read_bytes() == before, "it is repaired"


def test_a_line_and_a_journal_have_a_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_journal, "MAX_LINE_BYTES", 200)
    monkeypatch.setattr(folder_journal, "MAX_JOURNAL_BYTES", 500)
    book = opened(path)
    with pytest.raises(OSError, match="must have at most 500 bytes, and a line 200"):
        book.append({"text": "z" * 300})
    with pytest.raises(OSError, match="must have at most 500 bytes, and a line 200"):
        book.append_all([{"text": "z" * 50}] * 4)
    for _ in range(4):
        book.append({"text": "z" * 50})
    with pytest.raises(OSError, match="must have at most 500 bytes, and a line 200"):
        book.append({"text": "z" * 140})
    book.close()
    assert path.stat().st_size <= 500
    opened(path, 2).close()
    count = len(list(journal_of(path).entries()))
    assert count == len(journal_of(path).read()[0]) > 3
    long = b'{"text":"' + b"z" * 400 + path.read_bytes().partition(b"\n")[0] + b"\n"
    path.write_bytes(long)
    with pytest.raises(JournalDamagedError):
        journal_of(path).read(limit_bytes=20)


def written(path: Path, entries: int) -> bytes:
    """The content of a journal with entries of several lengths."""
    book = opened(path)
    for number in range(entries):
        book.append({"n": number, "text": "y" * 50 * (number % 4)})
    book.close()
    return path.read_bytes()


def numbers(path: Path) -> list[object]:
    return [entry["n"] for entry in journal_of(path).entries()]


@given(cut=st.integers(1, 200), entries=st.integers(1, 5))
def test_an_incomplete_last_line_is_dropped_wherever_it_was_cut(
    tmp_path_factory: pytest.TempPathFactory, cut: int, entries: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "journal.jsonl"
    content = written(path, entries)
    left = max(0, len(content) - cut)
    whole = content[:left].count(b"\n")
    for file in (path, copy_of(path)):
        os.truncate(file, left)
    assert numbers(path) == list(range(whole))
    book = opened(path, 2)
    book.append({"n": "next"})
    book.close()
    assert numbers(path) == [*range(whole), "next"]


@given(data=st.data())
def test_what_one_file_lost_is_restored_from_the_other(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "journal.jsonl"
    content = written(path, 6)
    spoiled = bytearray(content)
    start = data.draw(st.integers(0, len(content) - 1))
    length = data.draw(st.integers(1, len(content) - start))
    spoiled[start : start + length] = data.draw(st.binary(max_size=length))
    data.draw(st.sampled_from([path, copy_of(path)])).write_bytes(spoiled)
    opened(path, 2).close()
    assert path.read_bytes() == copy_of(path).read_bytes() == content


def test_damage_at_different_places_of_both_files_is_repaired(path: Path) -> None:
    content = written(path, 6)
    path.write_bytes(content.replace(b'"n":4', b'"n":5'))
    copy_of(path).write_bytes(content.replace(b'"n":1', b"\0\0\0\0\0"))
    assert numbers(path) == list(range(6))
    opened(path, 2).close()
    assert path.read_bytes() == copy_of(path).read_bytes() == content


def test_an_incomplete_line_longer_than_a_block_is_dropped(path: Path) -> None:
    book = opened(path)
    book.append({"n": 0})
    book.close()
    with path.open("ab") as file:
        file.write(b'{"n": "' + b"z" * 300_000)
    opened(path, 2).close()
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().endswith(b"\n")


def damage(path: Path, line: int, how: str) -> None:
    """Change one line (from 0) as `how` says."""
    lines = path.read_bytes().splitlines(keepends=True)
    here = lines[line]
    lines[line] = {
        "a digit": here.replace(b"20", b"21"),
        "noise": b"\x93" * 40 + b"\r\n",
        "cut": here[: len(here) // 2] + b"\n",
        "not ours": b'{"event": "epoch"}\n',
        "its checksum": re.sub(rb'"crc":\d+', b'"crc":1', here),
        "zeros": b"\0" * (len(here) - 1) + b"\n",
    }[how]
    assert lines[line] != here
    path.write_bytes(b"".join(lines))


@pytest.mark.parametrize("how", ["a digit", "noise", "cut", "not ours", "its checksum", "zeros"])
@pytest.mark.parametrize("line", [0, 1, 2])
def test_all_entries_from_one_that_both_files_lost_are_set_aside(
    path: Path, how: str, line: int, caplog: pytest.LogCaptureFixture
) -> None:
    book = opened(path)
    for number in range(4):
        book.append({"n": number, "value": 20.5})
    book.close()
    whole = path.read_bytes()
    for file in (path, copy_of(path)):
        damage(file, line, how)
    changed = path.read_bytes()
    with pytest.raises(JournalDamagedError, match="is not what was written"):
        numbers(path)
    book = opened(path, 2)
    assert numbers(path) == list(range(line))
    book.append({"n": "next"})
    book.close()
    assert numbers(path) == [*range(line), "next"]
    kept = sum(map(len, whole.splitlines(keepends=True)[:line]))
    assert path.with_name("journal.damaged-1").read_bytes() == changed[kept:]
    assert f"is damaged at byte {kept}" in caplog.text
    copy_of(path).unlink()
    damage(path, 0, "noise")  # without its copy, the file is cut at any damage
    opened(path, 3).close()
    assert numbers(path) == []
    assert path.with_name("journal.damaged-2").exists()


def test_a_byte_lost_anywhere_is_restored(path: Path) -> None:
    content = written(path, 3)
    for place in range(len(content)):
        path.write_bytes(content[:place] + content[place + 1 :])
        opened(path, 2).close()
        assert path.read_bytes() == copy_of(path).read_bytes() == content, place


def test_a_position_stands_until_the_file_is_cut_before_it(path: Path) -> None:
    book = opened(path)
    for number in range(10):
        book.append({"n": number, "text": "x" * 90})
    book.close()
    journal = journal_of(path)
    middle, end = journal.read(limit_bytes=600)[1], journal.read()[1]
    assert 0 < middle.offset < end.offset == path.stat().st_size
    for file in (path, copy_of(path)):
        damage(file, 8, "noise")
    book = opened(path, 2)
    for number in range(10):
        assert [journal.stands(position) for position in (BEGINNING, middle, end)] == [True, True, False]
        book.append({"n": number, "text": "x" * 90})
    assert path.stat().st_size > end.offset
    book.close()


def test_an_incomplete_line_is_read_once_it_is_complete(path: Path) -> None:
    book = opened(path)
    book.append({"n": 0})
    book.close()
    journal = journal_of(path)
    _, end = journal.read()
    book = opened(path)
    book.append({"n": 1})
    book.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert journal.read(end) == ([], end)
    path.write_bytes(whole)
    assert journal.read(end)[0] == [{"n": 1}]


def test_an_earlier_writer_does_not_repair_the_files_of_a_later_one(path: Path) -> None:
    later = opened(path, 2)
    later.append({"event": "x", "number": 0})
    with path.open("ab") as file:
        file.write(b'{"half of a line')  # of the later one, which is about to write the rest
    before = [(file.stat().st_ino, file.read_bytes()) for file in (path, copy_of(path))]
    with pytest.raises(WriterFencedError, match="writer 2 has started, so writer 1 must not write"):
        opened(path, 1)
    assert [(file.stat().st_ino, file.read_bytes()) for file in (path, copy_of(path))] == before
    later.close()


def test_entries_of_a_superseded_writer_are_void(path: Path) -> None:
    """Not even before it can know of the later one."""
    old, new = opened(path, 1), opened(path, 2)
    old.append({"n": "before"})
    new.append({"n": "takes over"})
    for file in (path, copy_of(path)):
        with file.open("ab") as open_file:
            open_file.write(folder_journal._line({"n": "void", "by": 1, "nth": 1}))
    new.append({"n": "heard"})
    assert [entry["n"] for entry in journal_of(path).entries()] == ["before", "takes over", "heard"]
    content = path.read_bytes()
    with pytest.raises(WriterFencedError, match="writer 2 has started, so writer 1 must not write"):
        old.append({"n": "void"})
    assert path.read_bytes() == copy_of(path).read_bytes() == content
    old.close()
    new.close()


def test_undoing_a_failed_write_removes_nothing_of_a_later_writer(path: Path) -> None:
    """The later one begins and writes while the earlier one is in the middle of its line."""
    old, new = opened(path, 1), None
    old.append({"n": "before"})

    class Full:
        """The copy, on a disk that is full from now on."""

        def __getattr__(self, name: str) -> Any:
            return getattr(copy, name)

        def write(self, _: bytes) -> int:
            nonlocal new
            new = opened(path, 2)
            new.append({"n": "takes over"})
            raise OSError(errno.ENOSPC, "No space left on device")

    copy, full = old._files[1], Full()
    old._files[1] = full  # type: ignore[call-overload]
    with pytest.raises(OSError, match="No space left"):
        old.append({"n": "half-way"})
    assert new is not None
    new.append({"n": "continues"})
    assert [entry["n"] for entry in journal_of(path).entries()] == ["before", "half-way", "takes over", "continues"]
    assert path.read_bytes() == copy_of(path).read_bytes()
    old.close()
    new.close()


def test_an_entry_that_cannot_be_synced_is_undone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems report a full disk only when a file is synced."""
    book = opened(path)
    book.append({"n": 0}, sync=True)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            book.append({"n": 1}, sync=True)
    book.append({"n": 2}, sync=True)
    book.close()
    assert numbers(path) == [0, 2]
    assert path.read_bytes() == copy_of(path).read_bytes()


def test_a_full_disk_raises_and_leaves_complete_lines(path: Path) -> None:
    """A limit on the size of a file simulates a full disk: the kernel writes a part and then nothing."""
    book = opened(path)
    book.append({"n": 0})
    line = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (line + 10, hard))
    try:
        with pytest.raises(OSError, match=r"disk may be full|too large"):
            book.append({"n": 1})
        with pytest.raises(OSError, match=r"disk may be full|too large"):
            book.append({"n": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    book.append({"n": 2})
    book.close()
    assert [json.loads(text)["n"] for text in path.read_text().splitlines()] == [0, 2]


def _without(path: Path, lines: slice) -> None:
    kept = path.read_bytes().splitlines(keepends=True)
    del kept[lines]
    path.write_bytes(b"".join(kept))


def _spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"n":3', b'"n":7'))


LOSSES: dict[str, Callable[[Path], None]] = {
    "the file": Path.unlink,
    "its content": lambda path: os.truncate(path, 0),
    "its first line": lambda path: _without(path, slice(1)),
    "a line in the middle": lambda path: _without(path, slice(3, 4)),
    "its last lines": lambda path: _without(path, slice(4, None)),
    "a byte": _spoil,
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("which", ["journal", "copy"])
def test_a_reader_gets_what_one_of_the_two_files_has_lost(path: Path, loss: str, which: str) -> None:
    written(path, 6)
    LOSSES[loss](path if which == "journal" else copy_of(path))
    assert numbers(path) == list(range(6))


def _replace_by(path: Path, what: str) -> None:
    """A link is to what would be read without end, or to a journal that is not ours."""
    path.unlink()
    if what == "a named pipe":
        os.mkfifo(path)
    elif what == "a folder":
        path.mkdir()
    else:
        path.symlink_to({"a link to /dev/zero": "/dev/zero", "a link to nothing": "/nothing/there"}[what])


NO_FILES = ["a named pipe", "a link to /dev/zero", "a link to nothing"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", NO_FILES)
@pytest.mark.parametrize("which", ["journal", "copy"])
def test_what_is_no_file_is_replaced_by_what_the_other_file_has(path: Path, what: str, which: str) -> None:
    content = written(path, 6)
    _, end = journal_of(path).read()
    _replace_by(path if which == "journal" else copy_of(path), what)
    assert journal_of(path).exists()
    assert numbers(path) == list(range(6))
    assert journal_of(path).stands(end) == (which == "copy")
    assert journal_of(path).read() == (
        ([], BEGINNING) if which == "journal" else (list(journal_of(path).entries()), end)
    )
    opened(path, 2).close()
    assert path.read_bytes() == copy_of(path).read_bytes() == content
    assert not path.is_symlink()
    assert not copy_of(path).is_symlink()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", [*NO_FILES, "a folder"])
def test_a_journal_of_which_no_file_is_left_does_not_exist(path: Path, what: str) -> None:
    written(path, 6)
    for file in (path, copy_of(path)):
        _replace_by(file, what)
    assert not journal_of(path).exists()
    assert numbers(path) == []
    if what == "a folder":
        with pytest.raises(OSError, match=path.name):
            opened(path, 2)
    else:
        opened(path, 2).close()
        assert path.read_bytes() == copy_of(path).read_bytes() == b""


def test_a_writer_does_not_look_for_a_later_one_in_what_is_no_file(path: Path) -> None:
    book = opened(path)
    book.append({"n": 0})
    with path.open("ab") as file:
        file.write(b"by another process\n")
    _replace_by(path, "a named pipe")
    with pytest.raises(NotAFileError):
        book.append({"n": 1})
    book.close()


@pytest.mark.parametrize("loss", ["its first line", "a line in the middle", "a byte"])
def test_a_reader_learns_that_both_files_have_lost_an_entry(path: Path, loss: str) -> None:
    written(path, 6)
    for file in (path, copy_of(path)):
        LOSSES[loss](file)
    with pytest.raises(JournalDamagedError):
        numbers(path)


@pytest.mark.parametrize("loss", ["the file", "its content", "its last lines"])
def test_a_position_does_not_stand_in_a_journal_that_has_lost_what_was_before_it(path: Path, loss: str) -> None:
    written(path, 6)
    _, end = journal_of(path).read()
    assert journal_of(path).stands(end)
    LOSSES[loss](path)
    assert not journal_of(path).stands(end)
    assert journal_of(path).stands(BEGINNING)


def test_a_position_beyond_the_largest_file_does_not_stand(path: Path) -> None:
    written(path, 1)
    assert not any(journal_of(path).stands(Position(offset, 1)) for offset in (10**6, 2**63 - 1))
