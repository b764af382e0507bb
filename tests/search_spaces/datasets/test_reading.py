"""How the files of a data set are read: which of them at the same time."""

from __future__ import annotations

import fcntl
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from search_spaces.datasets.image_folder import pictures
from search_spaces.datasets.image_folder.listing import status_of
from search_spaces.datasets.image_folder.pictures import Picture, describe
from search_spaces.datasets.image_folder.reading import read_pictures

PATIENCE_S = 60.0


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    (folder := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(pictures, "LARGE_PIXELS", 100)
    return folder


def read_all(*sides: int, folder: Path) -> list[Picture]:
    paths = [folder / f"{index}.png" for index in range(len(sides))]
    for path, side in zip(paths, sides, strict=True):
        Image.new("L", (side, side)).save(path)
    found = list(read_pictures(paths, describe(8, 8, 1), lambda path: status_of(path.stat())))
    return [one for one in found if isinstance(one, Picture)]


def test_a_large_image_waits_for_that_of_another_process_and_a_small_one_does_not(
    tmp_path: Path, temporary: Path
) -> None:
    assert len(read_all(20, 20, 8, folder=tmp_path)) == 3, "one after another"
    (lock,) = temporary.iterdir()
    with ThreadPoolExecutor() as pool:
        with lock.open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # of this opening, as of another process
            assert len(read_all(8, 8, folder=tmp_path)) == 2
            waiting = pool.submit(read_all, 20, folder=tmp_path)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
        assert len(waiting.result(timeout=PATIENCE_S)) == 1


def test_without_a_folder_for_temporary_files_images_are_read_all_the_same(tmp_path: Path, temporary: Path) -> None:
    temporary.rmdir()
    assert len(read_all(20, 20, folder=tmp_path)) == 2
