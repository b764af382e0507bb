"""The journal: nothing that was appended is lost, nothing that was torn is read, the last writer alone is heard."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.state import journal
from workers.state.journal import Journal

WRITER = """
import sys
from pathlib import Path
from workers.state.journal import Journal
book = Journal(Path(sys.argv[1]))
number = 0
while True:
    book.append({"n": number, "text": "x" * 200})
    print(number, flush=True)
    number += 1
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_entries_come_back_in_order(path: Path) -> None:
    book = Journal(path)
    said = [{"n": number, "x": [0.1, None, "ä\n"]} for number in range(50)]
    for entry in said:
        book.append(entry, sync=entry["n"] == 0)
    book.close()
    assert list(journal.entries(path)) == said


def test_a_missing_file_is_empty(path: Path) -> None:
    assert list(journal.entries(path)) == []
    assert journal.read(path, 0, 3) == ([], 0, 3)


def test_what_was_appended_survives_kill(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = -1
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged >= 200:
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    Journal(path, 2).close()
    numbers = [entry["n"] for entry in journal.entries(path)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > acknowledged


def written(path: Path, entries: int) -> bytes:
    """The content of a journal with entries of several lengths."""
    book = Journal(path)
    for number in range(entries):
        book.append({"n": number, "text": "y" * 50 * (number % 4)})
    book.close()
    return path.read_bytes()


def numbers(path: Path) -> list[object]:
    return [entry["n"] for entry in journal.entries(path)]


@given(cut=st.integers(1, 200), entries=st.integers(1, 5))
def test_a_torn_line_is_dropped_wherever_it_was_cut(
    tmp_path_factory: pytest.TempPathFactory, cut: int, entries: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "journal.jsonl"
    content = written(path, entries)
    left = max(0, len(content) - cut)
    whole = content[:left].count(b"\n")
    for file in (path, journal.copy_of(path)):
        os.truncate(file, left)
    assert numbers(path) == list(range(whole))
    book = Journal(path, 2)
    book.append({"n": "next"})
    book.close()
    assert numbers(path) == [*range(whole), "next"]


@given(data=st.data())
def test_what_one_file_lost_is_put_back_from_the_other(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "journal.jsonl"
    content = written(path, 6)
    spoiled = bytearray(content)
    start = data.draw(st.integers(0, len(content) - 1))
    length = data.draw(st.integers(1, len(content) - start))
    spoiled[start : start + length] = data.draw(st.binary(max_size=length))
    data.draw(st.sampled_from([path, journal.copy_of(path)])).write_bytes(spoiled)
    Journal(path, 2).close()
    assert path.read_bytes() == journal.copy_of(path).read_bytes() == content


def test_damage_at_different_places_of_both_is_healed(path: Path) -> None:
    content = written(path, 6)
    path.write_bytes(content.replace(b'"n":4', b'"n":5'))
    journal.copy_of(path).write_bytes(content.replace(b'"n":1', b"\0\0\0\0\0"))
    with pytest.raises(journal.JournalDamagedError, match="is not what was written"):
        numbers(path)
    Journal(path, 2).close()
    assert path.read_bytes() == journal.copy_of(path).read_bytes() == content


def test_a_torn_line_longer_than_a_block_is_dropped(path: Path) -> None:
    book = Journal(path)
    book.append({"n": 0})
    book.close()
    with path.open("ab") as file:
        file.write(b'{"n": "' + b"z" * 300_000)
    Journal(path, 2).close()
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
def test_from_what_both_have_lost_on_all_is_set_aside(
    path: Path, how: str, line: int, caplog: pytest.LogCaptureFixture
) -> None:
    book = Journal(path)
    for number in range(4):
        book.append({"n": number, "value": 20.5})
    book.close()
    whole = path.read_bytes()
    for file in (path, journal.copy_of(path)):
        damage(file, line, how)
    changed = path.read_bytes()
    with pytest.raises(journal.JournalDamagedError, match="is not what was written"):
        numbers(path)
    book = Journal(path, 2)
    assert numbers(path) == list(range(line))
    book.append({"n": "next"})
    book.close()
    assert numbers(path) == [*range(line), "next"]
    kept = sum(map(len, whole.splitlines(keepends=True)[:line]))
    assert path.with_name("journal.damaged-1").read_bytes() == changed[kept:]
    assert f"is cut at byte {kept}" in caplog.text
    journal.copy_of(path).unlink()
    damage(path, 0, "noise")  # alone, the file is cut at any damage
    Journal(path, 3).close()
    assert numbers(path) == []
    assert path.with_name("journal.damaged-2").exists()


def test_a_byte_lost_anywhere_is_put_back(path: Path) -> None:
    content = written(path, 3)
    for place in range(len(content)):
        path.write_bytes(content[:place] + content[place + 1 :])
        Journal(path, 2).close()
        assert path.read_bytes() == journal.copy_of(path).read_bytes() == content, place


def test_a_mark_holds_until_the_file_is_cut_before_it(path: Path) -> None:
    book = Journal(path)
    for number in range(10):
        book.append({"n": number, "text": "x" * 90})
    book.close()
    _, middle, _ = journal.read(path, limit_bytes=600)
    end = path.stat().st_size
    marks = {offset: journal.checksum_at(path, offset) for offset in (0, middle, end)}
    for file in (path, journal.copy_of(path)):
        damage(file, 8, "noise")
    book = Journal(path, 2)
    for number in range(10):
        assert {offset: journal.checksum_at(path, offset) == mark for offset, mark in marks.items()} == {
            0: True,
            middle: True,
            end: False,
        }
        book.append({"n": number, "text": "x" * 90})
    assert path.stat().st_size > end
    book.close()


def test_reading_in_blocks_smaller_than_a_line(path: Path) -> None:
    book = Journal(path)
    for number in range(20):
        book.append({"n": number, "text": "x" * (number * 37)})
    book.close()
    numbers, offset, writer = [], 0, 0
    while True:
        batch, end, writer = journal.read(path, offset, writer, limit_bytes=64)
        if end == offset:
            break
        numbers += [entry["n"] for entry in batch]
        offset = end
    assert numbers == list(range(20))
    assert offset == path.stat().st_size


def test_a_line_in_the_making_waits_for_its_end(path: Path) -> None:
    book = Journal(path)
    book.append({"n": 0})
    book.close()
    _, end, _ = journal.read(path)
    book = Journal(path)
    book.append({"n": 1})
    book.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    assert journal.read(path, end, 1) == ([], end, 1)
    path.write_bytes(whole)
    assert journal.read(path, end, 1)[0] == [{"n": 1}]


def test_a_writer_that_comes_late_takes_no_file_from_under_a_later_one(path: Path) -> None:
    later = journal.Journal(path, 2)
    later.append({"event": "x", "number": 0})
    with path.open("ab") as file:
        file.write(b'{"half of a line')  # of the later one, which is about to write the rest
    before = [(one.stat().st_ino, one.read_bytes()) for one in (path, journal.copy_of(path))]
    with pytest.raises(journal.WriterFencedError, match="writer 2 has begun, and 1 comes too late"):
        journal.Journal(path, 1)
    assert [(one.stat().st_ino, one.read_bytes()) for one in (path, journal.copy_of(path))] == before
    later.close()


def test_a_superseded_writer_is_not_heard(path: Path) -> None:
    """Not even in the moment in which it cannot know yet."""
    old, new = Journal(path, 1), Journal(path, 2)
    old.append({"n": "before"})
    new.append({"n": "takes over"})
    for file in (path, journal.copy_of(path)):
        with file.open("ab") as open_file:
            open_file.write(journal._line({"n": "void", "by": 1, "nth": 1}))
    new.append({"n": "heard"})
    assert [entry["n"] for entry in journal.entries(path)] == ["before", "takes over", "heard"]
    content = path.read_bytes()
    with pytest.raises(journal.WriterFencedError, match="writer 2 has begun, and 1 comes too late"):
        old.append({"n": "void"})
    assert path.read_bytes() == journal.copy_of(path).read_bytes() == content
    old.close()
    new.close()


def test_a_failed_write_takes_nothing_of_a_later_writer_back(path: Path) -> None:
    """The later one begins and writes while the earlier one is in the middle of its line."""
    old, new = Journal(path, 1), None
    old.append({"n": "before"})

    class Full:
        """The copy, on a disk that is full from now on."""

        def __getattr__(self, name: str) -> Any:
            return getattr(copy, name)

        def write(self, _: bytes) -> int:
            nonlocal new
            new = Journal(path, 2)
            new.append({"n": "takes over"})
            raise OSError(errno.ENOSPC, "No space left on device")

    copy, full = old._files[1], Full()
    old._files[1] = full  # type: ignore[call-overload]
    with pytest.raises(OSError, match="No space left"):
        old.append({"n": "half-way"})
    assert new is not None
    new.append({"n": "goes on"})
    assert [entry["n"] for entry in journal.entries(path)] == ["before", "half-way", "takes over", "goes on"]
    assert path.read_bytes() == journal.copy_of(path).read_bytes()
    old.close()
    new.close()


def test_what_cannot_be_stored_is_taken_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems tell of a full disk only then."""
    book = Journal(path)
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
    assert path.read_bytes() == journal.copy_of(path).read_bytes()


def test_threads_do_not_mix_their_lines(path: Path) -> None:
    book = Journal(path)

    def write(name: int) -> None:
        for number in range(200):
            book.append({"thread": name, "n": number})

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    book.close()
    read = list(journal.entries(path))
    assert len(read) == 800
    for name in range(4):
        assert [entry["n"] for entry in read if entry["thread"] == name] == list(range(200))


def test_a_full_disk_raises_and_leaves_whole_lines(path: Path) -> None:
    """A limit on the size of a file stands for a full disk: the kernel writes a part, then nothing."""
    book = Journal(path)
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
