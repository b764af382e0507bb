"""Image folders: image modes and sizes, damaged and unusual files, and changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from search_spaces.datasets import ImageFolder
from search_spaces.datasets.base import DataUnavailableError, RecognizableReader
from search_spaces.datasets.image_folder.reader import ImageFolderReader
from tests.support.image_files import save_image
from workers.data import cache, splits
from workers.data.splits import DataError, load


def two_classes(root: Path, n: int = 10) -> None:
    for index in range(n):
        save_image(root / "red" / f"{index}.png", (255, index, 0))
        save_image(root / "blue" / f"{index}.png", (0, index, 255))


def folder(path: str = "pictures", **fields: Any) -> ImageFolder:
    return ImageFolder.model_validate({"name": "image_folder", "path": path, "size": 8, **fields})


def test_every_image_is_in_one_split_with_its_label(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures")
    splits = load(folder(), 0, tmp_path, tmp_path / "cache")
    assert splits.class_names == ("blue", "red")
    assert splits.train_images.shape == (16, 3, 8, 8)
    assert splits.validation_images.shape == splits.test()[0].shape == (2, 3, 8, 8)
    for images, labels in ((splits.train_images, splits.train_labels), splits.test()):
        assert torch.equal(images[:, 0, 0, 0] == 255, labels == 1)
        assert torch.equal(images[:, 2, 0, 0] == 255, labels == 0)
    images = torch.cat([splits.train_images, splits.validation_images, splits.test()[0]])
    assert len({(int(red), int(green)) for red, green in images[:, :2, 0, 0]}) == 20
    assert splits.notes == (
        "the validation set has 2 images: one is 50 % of the accuracy by which trials are compared",
        "the validation set has a single image of blue, red",
        "the test set has 2 images: one is 50 % of the accuracy that is reported",
        "the test set has a single image of blue, red",
    )


def test_a_validation_set_that_is_larger_than_its_fraction_is_reported(tmp_path: Path) -> None:
    """Before and after anything is decoded."""
    two_classes(tmp_path / "pictures/train", 2)
    two_classes(tmp_path / "pictures/test", 1)
    said = (
        "the validation set takes 2 of 4 training images, although validation_fraction is 0.1: of each class with two "
        "images or more, at least one is held out"
    )
    assert f"dataset: {said}" in folder().check(tmp_path).notes
    assert said in load(folder(), 0, tmp_path, tmp_path / "cache").notes
    assert not any("takes" in note for note in folder(validation_fraction=0.5).check(tmp_path).notes)


def test_gray_images_and_unusual_modes(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures")
    for index, mode in enumerate(["L", "P", "RGBA", "LA", "1", "CMYK"]):
        suffix = "tif" if mode == "CMYK" else "png"
        save_image(tmp_path / "pictures/red" / f"mode{index}.{suffix}", (255, 255, 255), mode=mode)
    sixteen = Image.fromarray(np.full((12, 12), 65535, dtype=np.uint16))
    sixteen.save(tmp_path / "pictures/red/sixteen.png")
    half = Image.fromarray(np.full((12, 12), 32768, dtype=np.uint16))
    half.save(tmp_path / "pictures/red/half.png")
    splits = load(folder(color="grey"), 0, tmp_path, tmp_path / "cache")
    images = torch.cat([splits.train_images, splits.validation_images, splits.test()[0]])
    assert images.shape[1:] == (1, 8, 8)
    assert int((images[:, 0, 0, 0] == 255).sum()) == 7
    assert int((images[:, 0, 0, 0] == 127).sum()) == 1


@pytest.mark.parametrize(("orientation", "red_rows"), [(1, slice(0, 4)), (3, slice(4, 8))])
def test_images_are_rotated_to_their_exif_orientation(tmp_path: Path, orientation: int, red_rows: slice) -> None:
    """Orientation 3 means that the camera was upside down."""
    two_classes(tmp_path / "pictures/train")
    two_classes(tmp_path / "pictures/test", 1)
    picture = Image.new("RGB", (8, 8), (0, 0, 255))
    picture.paste((255, 0, 0), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    picture.save(tmp_path / "pictures/test/red/0.png", exif=exif)
    images, labels = load(folder(), 0, tmp_path, tmp_path / "cache").test()
    red = images[labels == 1][0, 0] == 255
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[red_rows] = True
    assert torch.equal(red, expected)


def test_only_the_names_of_the_files_decide_the_test_set(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures", 20)
    test_images = [load(folder(), seed, tmp_path, tmp_path / "cache").test()[0] for seed in (0, 1)]
    assert torch.equal(*test_images)
    two_classes(tmp_path / "copied", 20)
    assert torch.equal(load(folder("copied"), 2, tmp_path, tmp_path / "cache").test()[0], test_images[0])


def test_train_and_test_folders_are_the_two_sets(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures/train")
    two_classes(tmp_path / "pictures/test", 3)
    splits = load(folder(), 0, tmp_path, tmp_path / "cache")
    assert len(splits.train_images) + len(splits.validation_images) == 20
    assert torch.bincount(splits.test()[1]).tolist() == [3, 3]
    save_image(tmp_path / "pictures/test/green/0.png", (0, 255, 0))
    with pytest.raises(DataError, match=r"class green of .* must be one of"):
        load(folder(), 0, tmp_path, tmp_path / "cache")


def test_damaged_images_are_reported_all_at_once(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures")
    whole = (tmp_path / "pictures/red/0.png").read_bytes()
    (tmp_path / "pictures/red/cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "pictures/blue/empty.jpg").write_bytes(b"")
    (tmp_path / "pictures/blue/text.png").write_text("no picture")
    with pytest.raises(DataError, match="3 damaged images") as error:
        load(folder(), 0, tmp_path, tmp_path / "cache")
    for name in ("red/cut.png", "blue/empty.jpg", "blue/text.png"):
        assert name in str(error.value)
    for name in ("red/cut.png", "blue/empty.jpg", "blue/text.png"):
        (tmp_path / "pictures" / name).unlink()
    assert load(folder(), 0, tmp_path, tmp_path / "cache").classes == 2, "the repaired folder must load"


def test_unusual_files_are_listed_in_notes(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures", 20)
    save_image(tmp_path / "pictures/red/wide.png", (1, 2, 3), (60, 12))
    save_image(tmp_path / "pictures/red/large.png", (4, 5, 6), (24, 24))
    (tmp_path / "pictures/red/readme.txt").write_text("about")
    splits = load(folder(), 0, tmp_path, tmp_path / "cache")
    assert len([note for note in splits.notes if not note.startswith("the ")]) == 2
    assert "red/readme.txt" in splits.notes[0]
    assert "red/wide.png (60x12)" in splits.notes[1]
    assert "red/large.png (24x24)" in splits.notes[1]
    assert load(folder(), 0, tmp_path, tmp_path / "cache").notes == splits.notes


def test_decoded_images_from_before_a_change_are_deleted_after_a_while(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures")
    two_classes(tmp_path / "others")
    load(folder("others"), 0, tmp_path, tmp_path / "cache")
    for change in range(splits.KEPT_SPLITS + 2):
        save_image(tmp_path / f"pictures/red/new{change}.png", (255, 99, 0))
        load(folder(), 0, tmp_path, tmp_path / "cache")
        for manifest in (tmp_path / "cache").glob(f"*/{cache.MANIFEST}"):
            os.utime(manifest, (1_000_000 + change,) * 2)
    left = [path.name for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len([name for name in left if name.startswith("folder-")]) == splits.KEPT_SOURCES + 1, (
        "one is the other folder's"
    )
    assert len([name for name in left if name.startswith("split-")]) == splits.KEPT_SPLITS + 1


def test_a_changed_folder_is_decoded_again(tmp_path: Path) -> None:
    two_classes(tmp_path / "pictures")
    load(folder(), 0, tmp_path, tmp_path / "cache")
    save_image(tmp_path / "pictures/red/new.png", (255, 99, 0))
    splits = load(folder(), 0, tmp_path, tmp_path / "cache")
    assert len(splits.train_images) + len(splits.validation_images) + len(splits.test()[0]) == 21


def while_decoded(monkeypatch: pytest.MonkeyPatch, **changes: Callable[[], object]) -> None:
    """Let something happen when the array of this name is created, once."""
    create = cache.Draft.create_array

    def create_array(draft: cache.Draft, name: str, *arguments: Any) -> Any:
        changes.pop(name, int)()
        return create(draft, name, *arguments)

    monkeypatch.setattr(cache.Draft, "create_array", create_array)


@pytest.mark.parametrize("back", ["test_images", "never"])
def test_images_of_another_folder_that_was_there_for_a_while_do_not_stay_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, back: str
) -> None:
    """Renaming a folder keeps the times of its files: once it is back, everything looks as if nothing had happened."""
    pictures, kept = tmp_path / "pictures", tmp_path / "kept"
    two_classes(pictures)
    two_classes(tmp_path / "others")
    truth = load(folder(), 0, tmp_path, tmp_path / "true")

    def swap() -> None:
        (pictures / "red").rename(kept)
        (tmp_path / "others" / "blue").rename(pictures / "red")

    def swap_back() -> None:
        (pictures / "red").rename(tmp_path / "others" / "blue")
        kept.rename(pictures / "red")

    while_decoded(monkeypatch, train_images=swap, **{back: swap_back})
    changed = r"image_folder: .* changed while .* read; try again once nothing changes"
    with pytest.raises(DataUnavailableError, match=changed):
        load(folder(), 0, tmp_path, tmp_path / "cache")
    monkeypatch.undo()
    if kept.exists():
        swap_back()
    again = load(folder(), 0, tmp_path, tmp_path / "cache")
    assert torch.equal(again.train_images[:], truth.train_images[:])
    assert again.digests == truth.digests


def overwrite(path: Path) -> None:
    save_image(path, (1, 2, 3))


@pytest.mark.parametrize(
    "change",
    [lambda root: overwrite(root / "red/new.png"), lambda root: os.utime(root / "red/0.png", (1, 1)), shutil.rmtree],
)
def test_a_folder_that_changes_after_its_last_file_was_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object]
) -> None:
    two_classes(tmp_path / "pictures")
    decode = ImageFolderReader.decode

    def decode_and_change(*arguments: Any, **options: Any) -> dict[str, Any]:
        facts = decode(*arguments, **options)
        change(tmp_path / "pictures")
        return facts

    monkeypatch.setattr(ImageFolderReader, "decode", decode_and_change)
    with pytest.raises(
        DataUnavailableError, match=r"image_folder: the files in .*pictures changed while they were read"
    ):
        load(folder(), 0, tmp_path, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob(f"*/{cache.MANIFEST}"))


def test_an_entry_that_is_lost_is_not_built_from_a_file_whose_change_was_not_noticed(tmp_path: Path) -> None:
    """A folder that was read a while ago is recognized by the status of some of its files."""
    two_classes(tmp_path / "pictures", 100)
    truth = load(folder(), 0, tmp_path, tmp_path / "cache")
    reader = folder().reader(tmp_path)
    assert isinstance(reader, RecognizableReader)
    before = reader.signs()
    unnoticed = []
    for path in sorted((tmp_path / "pictures").rglob("*.png")):
        status, content = path.stat(), path.read_bytes()
        overwrite(path)
        again = folder().reader(tmp_path)
        assert isinstance(again, RecognizableReader)
        if again.signs() == before:
            unnoticed.append((path, status, content))
        else:
            path.write_bytes(content)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert unnoticed
    for entry in (tmp_path / "cache").glob(f"*/{cache.MANIFEST}"):
        entry.unlink()
    assert load(folder(), 0, tmp_path, tmp_path / "cache").digests != truth.digests
    for path, status, content in unnoticed:
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (tmp_path / "cache").joinpath(
        *(path.name for path in (tmp_path / "cache").glob(f"*{cache.RECALL_SUFFIX}"))
    ).unlink()
    assert load(folder(), 0, tmp_path, tmp_path / "cache").digests == truth.digests


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "there is no folder .*pictures"),
        (lambda root: save_image(root / "one/0.png", (1, 2, 3)), "must have at least two class folders"),
        (lambda root: [save_image(root / "one/0.png", (1, 2, 3)), (root / "two").mkdir()], "no images in .*two"),
    ],
)
def test_a_folder_without_images(tmp_path: Path, prepare: Any, message: str) -> None:
    prepare(tmp_path / "pictures")
    with pytest.raises(DataError, match=message):
        load(folder(), 0, tmp_path, tmp_path / "cache")


def test_the_empty_folder_of_a_missing_mount_is_no_defect_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataUnavailableError, match=r"image_folder: .*pictures is empty; images must be in "):
        load(folder(), 0, tmp_path, tmp_path / "cache")


def test_a_warm_load_looks_at_few_of_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_classes(tmp_path / "pictures", 200)
    first = load(folder(), 0, tmp_path, tmp_path / "cache")
    looked_at: list[str] = []
    stat = os.stat

    def count(path: Any, **options: Any) -> os.stat_result:
        looked_at.append(str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", count)
    again = load(folder(), 0, tmp_path, tmp_path / "cache")
    assert torch.equal(again.train_images[:], first.train_images[:])
    assert len([path for path in looked_at if path.endswith(".png")]) <= 100
    looked_at.clear()
    load(folder(), 0, tmp_path, tmp_path / "cache", every_file=True)
    assert len([path for path in looked_at if path.endswith(".png")]) >= 400
    looked_at.clear()
    monkeypatch.setattr(cache, "RECALL_S", 0)
    load(folder(), 0, tmp_path, tmp_path / "cache")
    assert len([path for path in looked_at if path.endswith(".png")]) >= 400, "after a while, all of them"
