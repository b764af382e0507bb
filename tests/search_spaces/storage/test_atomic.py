"""Atomic writes: a file has its new content or its old one, and no other file remains."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from search_spaces.storage.atomic import atomic_write


def test_the_new_content_is_synced_before_it_replaces_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before_sync, fsync = tmp_path / "spec.json", list[bytes](), os.fsync
    path.write_bytes(b"old")

    def record(descriptor: int) -> None:
        before_sync.append(path.read_bytes())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    atomic_write(path, b"new")
    assert (before_sync, path.read_bytes(), list(tmp_path.iterdir())) == ([b"old"], b"new", [path])


def test_a_full_disk_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, b"new")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])
