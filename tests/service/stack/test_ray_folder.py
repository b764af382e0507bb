"""Ray's folder: private, of a short and plain path, and not at a place that others can guess."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import stack
from service.stack import ray_folder
from service.stack.ray_folder import MAX_LENGTH, temporary_folder

#: As long as Ray makes the path of a socket below its folder.
SOCKET = "/session_2026-11-29_03-19-01_123456_4194304/sockets/dash_TaskEventsHead"


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        yield Path(folder)


def test_a_socket_has_room_in_the_longest_folder() -> None:
    assert MAX_LENGTH + len(SOCKET) == 107


def test_in_a_short_home_it_is_private(short: Path) -> None:
    (short / "ray").mkdir(mode=0o777)
    (short / "ray").chmod(0o777)  # as an earlier version left it
    folder = ray_folder.ray_folder(short)
    assert folder.parent == short / "ray"
    assert folder.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["x" * 60, "a b", "é", "a?b", "%20"])
def test_in_another_home_it_has_a_random_name(short: Path, name: str) -> None:
    homes = [short / name, short / f"{name}2"]
    folders = []
    for home in homes:
        home.mkdir()
        folders.append(ray_folder.ray_folder(home))
        assert ray_folder.ray_folder(home) == folders[-1], "a stack uses it again"
        assert folders[-1].parent.stat().st_mode & 0o777 == 0o700
        assert len(os.fsencode(folders[-1])) <= MAX_LENGTH
    assert folders[0] != folders[1]
    for home, folder in zip(homes, folders, strict=True):
        ray_folder.remove(home)
        assert not folder.parent.exists()
        assert list(home.iterdir()) == []


def test_the_folder_of_another_user_or_one_that_others_can_open_is_not_used(short: Path, tmp_path: Path) -> None:
    home = short / ("x" * 60)
    home.mkdir()
    open_to_all = tmp_path / "a"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    (home / "ray_folder").symlink_to(open_to_all)
    assert ray_folder.ray_folder(home).parent != open_to_all
    ray_folder.remove(home)
    assert open_to_all.exists()


def test_a_long_folder_for_temporary_files_is_not_used(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Slurm names them."""
    long = tmp_path / ("slurm." + "x" * 80)
    long.mkdir()
    home = long / "home"
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = ray_folder.ray_folder(home)
    assert len(os.fsencode(folder)) <= MAX_LENGTH
    found = temporary_folder(folder)
    ray_folder.remove(home)
    assert found == folder.with_name("tmp")
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    assert temporary_folder(folder) is None


def test_without_a_suitable_folder_the_limit_is_reported(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = short / ("x" * 60)
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 60)))
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **_: (_ for _ in ()).throw(PermissionError("full")))
    with pytest.raises(stack.StackError, match=r"set TMPDIR to a folder .* at most \d+ letters"):
        ray_folder.ray_folder(home)
