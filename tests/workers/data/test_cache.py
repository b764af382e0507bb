"""The cache under crashes, races, damage and full disks, with real processes and files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces.datasets.base import DataError, DataUnavailableError
from workers.data import cache

BUILDER = """
import sys, time
from pathlib import Path
import numpy as np
from workers.data import cache
root, log, signal = map(Path, sys.argv[1:4])
stop_half_way = len(sys.argv) > 4
def build(draft):
    with log.open("a") as file:
        file.write("built\\n")
    draft.create_array("numbers", (1000,), np.int64)[:] = np.arange(1000)
    signal.touch()
    if stop_half_way:
        sys.stdin.read()
    return {"sum": 499500}
found = cache.entry(root, "key", build)
assert found.array("numbers").sum() == found.facts["sum"]
"""


def build(draft: cache.Draft) -> dict[str, Any]:
    draft.create_array("numbers", (1000,), np.int64)[:] = np.arange(1000)
    return {"sum": 499500}


def refuse(draft: cache.Draft) -> dict[str, Any]:
    raise RuntimeError("must not be built again")


def builder(tmp_path: Path, signal_name: str, *more: str) -> subprocess.Popen[bytes]:
    arguments = [str(tmp_path / "cache"), str(tmp_path / "log"), str(tmp_path / signal_name), *more]
    return subprocess.Popen([sys.executable, "-c", BUILDER, *arguments], stdin=subprocess.PIPE)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, "the builder ended too early"
        assert time.monotonic() < deadline, f"{path} did not appear"
        os.sched_yield()


def test_an_entry_is_built_once(tmp_path: Path) -> None:
    first = cache.entry(tmp_path / "cache", "key", build)
    again = cache.entry(tmp_path / "cache", "key", refuse)
    assert first == again
    assert again.facts == {"sum": 499500}
    assert np.array_equal(again.array("numbers"), np.arange(1000))


def test_arrays_are_mapped_and_a_writer_changes_only_its_own_copy(tmp_path: Path) -> None:
    entry = cache.entry(tmp_path, "key", build)
    written, other = entry.array("numbers"), entry.array("numbers")
    assert isinstance(written, np.memmap)
    written[0] = 7
    assert other[0] == 0
    assert entry.array("numbers")[0] == 0


def test_a_builder_that_is_killed_leaves_no_entry(tmp_path: Path) -> None:
    process = builder(tmp_path, "half", "stop")
    wait_for(tmp_path / "half", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "cache" / "key").exists()
    entry = cache.entry(tmp_path / "cache", "key", build)
    assert entry.array("numbers").sum() == 499500
    left = {path.name for path in (tmp_path / "cache").iterdir()}
    assert left == {"key", "key.lock"}, "the files of the killed builder remain"


def test_one_builder_builds_and_the_others_wait(tmp_path: Path) -> None:
    first = builder(tmp_path, "half", "stop")
    wait_for(tmp_path / "half", first)
    others = [builder(tmp_path, f"unused{number}") for number in range(2)]
    assert not (tmp_path / "cache" / "key").exists()
    for process in (first, *others):
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_builder_that_raises_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="again"):
        cache.entry(tmp_path, "key", refuse)
    assert {path.name for path in tmp_path.iterdir()} == {"key.lock"}
    assert cache.entry(tmp_path, "key", build).facts["sum"] == 499500


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "manifest cut", "manifest gone", "old format"])
def test_a_damaged_entry_is_built_again(tmp_path: Path, damage: str) -> None:
    entry = cache.entry(tmp_path, "key", build)
    array, manifest = entry.path / "numbers.npy", entry.path / cache.MANIFEST
    content = array.read_bytes()
    if damage == "flipped":
        array.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        array.write_bytes(content[:-8])
    elif damage == "gone":
        array.unlink()
    elif damage == "manifest cut":
        manifest.write_text(manifest.read_text()[:20])
    elif damage == "manifest gone":
        manifest.unlink()
    else:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": cache.FORMAT - 1}))
    again = cache.entry(tmp_path, "key", build)
    assert np.array_equal(again.array("numbers"), np.arange(1000))


def test_a_copied_entry_is_valid(tmp_path: Path) -> None:
    entry = cache.entry(tmp_path / "here", "key", build)
    (tmp_path / "there").mkdir()
    shutil.copytree(entry.path, tmp_path / "there" / "key", copy_function=shutil.copyfile)
    assert cache.entry(tmp_path / "there", "key", refuse).facts["sum"] == 499500


def test_different_parts_give_different_keys() -> None:
    assert cache.key_of("a", 1) == cache.key_of("a", 1)
    assert len({cache.key_of("a", 1), cache.key_of("a", 2), cache.key_of("a1"), cache.key_of(["a", 1])}) == 4


def test_prune_keeps_the_entries_used_last_and_those_used_within_the_hour(tmp_path: Path) -> None:
    for number in range(5):
        entry = cache.entry(tmp_path, f"split-{number}", build)
        os.utime(entry.path / cache.MANIFEST, (1_000_000 + number,) * 2)
    cache.entry(tmp_path, "other", build)
    cache.entry(tmp_path, "split-0", refuse)  # marks it as used now
    cache.prune(tmp_path, "split-", keep=2)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"split-0", "split-4", "other"}
    cache.prune(tmp_path, "split-", keep=0)
    assert (tmp_path / "split-0").exists(), "used within the hour"


def test_a_full_disk_is_a_data_error(small_disk: Path) -> None:
    def too_much(draft: cache.Draft) -> dict[str, Any]:
        draft.create_array("large", (4 << 20,), np.uint8)[:] = 1
        return {}

    with pytest.raises(DataUnavailableError, match=r"no space left .* in the cache .*disk.* free"):
        cache.entry(small_disk / "cache", "key", too_much)
    assert cache.entry(small_disk / "cache", "small", build).facts["sum"] == 499500


def test_a_failed_allocation_is_a_data_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for machines on which no disk can be mounted: the allocation fails with the kernel's error."""

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataUnavailableError, match="no space left"):
        cache.entry(tmp_path / "cache", "key", build)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"key.lock"}


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        ("file", "File exists"),
        ("file/below", "Not a directory"),
        ("/proc/x", "No such file or directory"),
        ("/proc/x/below/it", "No such file or directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_root_that_cannot_be_a_folder_is_a_data_error(tmp_path: Path, root: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    message = f"the cache {tmp_path / root} cannot be written ({reason}); the cache root (--cache-root or RUNG_CACHE_"
    with pytest.raises(DataUnavailableError, match=re.escape(message)):
        cache.entry(tmp_path / root, "key", build)


def test_an_error_of_the_builder_is_raised_unchanged(tmp_path: Path) -> None:
    def unreadable(draft: cache.Draft) -> dict[str, Any]:
        raise PermissionError(13, "Permission denied", str(tmp_path / "source"))

    with pytest.raises(PermissionError):
        cache.entry(tmp_path / "cache", "key", unreadable)


@pytest.mark.parametrize("kind", [DataError, DataUnavailableError])
def test_those_who_wait_for_a_build_share_its_data_error(tmp_path: Path, kind: type[DataError]) -> None:
    """Eight trials that start together must not decode a damaged data set one after another."""
    built: list[int] = []
    waiting = threading.Event()

    def fail(draft: cache.Draft) -> dict[str, Any]:
        built.append(1)
        assert waiting.wait(60)
        raise kind("3 damaged images")

    def ask(_: int) -> tuple[type[DataError], str]:
        with pytest.raises(DataError) as raised:
            cache.entry(tmp_path, "key", fail)
        return raised.type, str(raised.value)

    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(ask, number) for number in range(3)]
        deadline = time.monotonic() + 60
        while lock_waiters(tmp_path / "key.lock") < 2:
            assert time.monotonic() < deadline, "nobody waits"
            os.sched_yield()
        waiting.set()
        assert {answer.result() for answer in answers} == {(kind, "3 damaged images")}
    assert len(built) == 1
    with pytest.raises(DataError):
        cache.entry(tmp_path, "key", fail)
    assert len(built) == 2, "who asks later tries again: the files may have been repaired"


def lock_waiters(path: Path) -> int:
    """Number of processes and threads that wait for a lock on this file."""
    inode = f":{path.stat().st_ino} " if path.exists() else "absent"
    return sum("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_idle_entries_are_deleted_where_the_disk_would_become_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "older", "used"):
        cache.entry(tmp_path, name, build)
    for age, name in ((2, "older"), (1, "old")):
        os.utime(tmp_path / name / cache.MANIFEST, (time.time() - age * 10_000,) * 2)
    size = cache.size_bytes(tmp_path) // 3
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=1000, free=50 + 8000 - size // 2))
    cache.entry(tmp_path, "new", build)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"old", "used", "new"}
    cache.entry(tmp_path, "old", refuse)  # marks it as used now
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(total=1000, free=50))
    cache.entry(tmp_path, "into the reserve", lambda draft: {})
    with pytest.raises(DataError, match="no space left for decoded data"):
        cache.entry(tmp_path, "newest", build)
    assert (tmp_path / "used").exists(), "used within the hour"
