"""The journal: nothing that was appended is lost, nothing that was torn is read, the last writer alone is heard."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import journal
from workers.journal import Journal

WRITER = """
import sys
from pathlib import Path
from workers.journal import Journal
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


@given(cut=st.integers(1, 200), entries=st.integers(1, 5))
def test_a_torn_line_is_dropped_wherever_it_was_cut(
    tmp_path_factory: pytest.TempPathFactory, cut: int, entries: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "journal.jsonl"
    book = Journal(path)
    for number in range(entries):
        book.append({"n": number, "text": "y" * 150})
    book.close()
    size = path.stat().st_size
    line = size // entries
    os.truncate(path, size - min(cut, size))
    whole = (size - min(cut, size)) // line
    assert [entry["n"] for entry in journal.entries(path)] == list(range(whole))
    book = Journal(path, 2)
    book.append({"n": "next"})
    book.close()
    assert [entry["n"] for entry in journal.entries(path)] == [*range(whole), "next"]


def test_a_torn_line_longer_than_a_block_is_dropped(path: Path) -> None:
    book = Journal(path)
    book.append({"n": 0})
    book.close()
    with path.open("ab") as file:
        file.write(b'{"n": "' + b"z" * 300_000)
    Journal(path, 2).close()
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().endswith(b"\n")


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
    with path.open("ab") as file:
        file.write(b'{"n": 1,')
        file.flush()
        assert journal.read(path, end, 1) == ([], end, 1)
        file.write(b' "by": 1}\n')
    assert journal.read(path, end, 1)[0] == [{"n": 1}]


def test_a_superseded_writer_is_not_heard(path: Path) -> None:
    old, new = Journal(path, 1), Journal(path, 2)
    old.append({"n": "before"})
    new.append({"n": "takes over"})
    old.append({"n": "void"})
    new.append({"n": "heard"})
    assert [entry["n"] for entry in journal.entries(path)] == ["before", "takes over", "heard"]
    _, middle, writer = journal.read(path, limit_bytes=40)
    rest = journal.read(path, middle, writer)[0] if middle else []
    assert {"n": "void"} not in rest
    old.close()
    new.close()


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
