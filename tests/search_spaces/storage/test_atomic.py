"""Whole files: the new content or the old one, and nothing beside it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from search_spaces.storage.atomic import atomic_write


def test_a_file_is_written_anew_and_stored_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, found, store = tmp_path / "spec.json", list[bytes](), os.fsync
    path.write_bytes(b"old")

    def stored(descriptor: int) -> None:
        found.append(path.read_bytes())
        store(descriptor)

    monkeypatch.setattr(os, "fsync", stored)
    atomic_write(path, b"new")
    assert (found, path.read_bytes(), list(tmp_path.iterdir())) == ([b"old"], b"new", [path])


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, b"new")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])
