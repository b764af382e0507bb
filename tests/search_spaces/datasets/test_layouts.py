"""Layouts of image folders: each is used, or refused with a sentence that says what was found and what is expected."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces.datasets import ImageFolder
from search_spaces.datasets.base import DataError
from search_spaces.datasets.image_folder import checks
from search_spaces.datasets.image_folder.layout import FoundImages, find_images
from search_spaces.datasets.image_folder.listing import Limits, TooManyEntriesError
from tests.support.image_files import save_image
from workers.data.splits import load

PNG = b"\x89PNG\r\n\x1a\n"


def tree(root: Path, *paths: str) -> Path:
    """Files with the first bytes of a PNG; names that end in / are folders."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (root / path).mkdir(exist_ok=True)
        else:
            (root / path).write_bytes(PNG)
    return root


def counts(found: FoundImages) -> dict[str, int]:
    return {part: len(images) for part, images in found.parts.items()}


CLASSES = ("a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/2.png", "b/3.png")


def parts(**folders: str) -> list[str]:
    """Two classes of three images in each of the folders."""
    return [f"{folder}/{path}" for folder in folders.values() for path in CLASSES]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ({"train": "train", "test": "test"}, {"train": 6, "test": 6}),
        ({"train": "Train", "test": "Test"}, {"train": 6, "test": 6}),
        ({"train": "train", "val": "val", "test": "test"}, {"train": 6, "validation": 6, "test": 6}),
        ({"train": "train", "val": "valid", "test": "test"}, {"train": 6, "validation": 6, "test": 6}),
        ({"train": "training", "val": "Validation"}, {"train": 4, "validation": 6, "test": 2}),
        ({"train": "TRAIN"}, {"train": 4, "test": 2}),
    ],
)
def test_folders_of_parts_are_used(tmp_path: Path, folders: dict[str, str], expected: dict[str, int]) -> None:
    found = find_images(tree(tmp_path, *parts(**folders)), 0.1)
    assert counts(found) == expected
    assert found.class_names == ("a", "b")
    for part, folder in folders.items():
        assert f"{folder} is the {'validation' if part == 'val' else part} set" in found.summary
    assert (found.summary in found.notes) == ("val" in folders or "test" not in folders)


def test_a_validation_folder_is_the_validation_set(tmp_path: Path) -> None:
    for part, color in (("train", 10), ("valid", 20), ("test", 30)):
        for index in range(3):
            for name in ("a", "b"):
                save_image(tmp_path / f"pictures/{part}/{name}/{index}.png", (color, index, 5 * (name == "b")))
    for seed in (0, 1):
        splits = load(ImageFolder(path="pictures", size=8), seed, tmp_path, tmp_path / "cache")
        for images, level in ((splits.train_images, 10), (splits.validation_images, 20), (splits.test()[0], 30)):
            assert (images[:, 0] == level).all()
            assert len(images) == 6
        assert splits.mean[0].item() == pytest.approx(10 / 255), "of the training images only"
        assert torch.bincount(splits.validation_labels).tolist() == [3, 3]
        assert "valid is the validation set" in splits.notes[0]
        assert "validation_fraction is not used" in splits.notes[0]


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        (["test/"], "test must have images in class folders (got no folders, no images)"),
        (["test/1.png", "test/2.png"], "test must have images in class folders (got no folders, 2 images)"),
        (["test/a/"], "test must have images in class folders (got 1 folder (a), no images)"),
        (["val/1.png", "test/a/1.png"], "val must have images in class folders (got no folders, 1 image)"),
        (["test/c/1.png"], "the class c of"),
        (["Train/a/1.png", "test/a/1.png"], "must have one folder for the train set (got Train, train)"),
        (["val/a/1.png", "valid/a/1.png"], "must have one folder for the validation set (got val, valid)"),
    ],
)
def test_parts_that_cannot_be_used_are_refused(tmp_path: Path, paths: list[str], sentence: str) -> None:
    tree(tmp_path, *parts(train="train"), *paths)
    with pytest.raises(DataError, match=re.escape(sentence)):
        find_images(tmp_path, 0.1)


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        (
            ["data/a/1.png", "data/b/1.png", "__MACOSX/._a"],
            "(got 1 folder (data), no images; data has 2 folders (a, b)",
        ),
        (["1.png", "2.png"], "(got no folders, 2 images)"),
        (["train/1.png", "test/1.png"], "train must have class folders (got no folders, 1 image)"),
        (["val/a/1.png", "test/a/1.png"], "has 2 folders (test, val), no images but no folder train"),
        (["a/x/1.png", "b/1.png"], "a (got 1 folder (x), no images)"),
        (
            ["a/1.heic", "a/2.JP2", "a/about.txt", "b/1.png"],
            "a (got no folders, no images, 2 images in formats that cannot be read (.heic, .jp2), 1 other file); "
            "convert them to PNG or JPEG",
        ),
        (["a /notes.txt", "b/1.png"], "a ' (got no folders, no images, 1 other file)"),
    ],
)
def test_folders_without_classes_are_refused(tmp_path: Path, paths: list[str], sentence: str) -> None:
    with pytest.raises(DataError, match=re.escape(sentence)):
        find_images(tree(tmp_path, *paths), 0.1)


def test_a_class_that_a_set_lacks_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is decoded: in a folder, and where the validation set is cut from the training set."""
    monkeypatch.setattr(checks, "MAX_COMPARED_FILES", 0)
    given, cut = ImageFolder(path="given"), ImageFolder(path="cut", validation_fraction=0.5)
    tree(tmp_path / "given", *parts(train="train"), "test/a/1.png", "test/b/", "val/b/1.png")
    tree(tmp_path / "cut", *parts(train="train", test="test"), "train/a/4.png", "train/a/5.png", "train/c/1.png")
    found = {dataset.path: dataset.check(tmp_path).notes for dataset in (given, cut)}
    assert found["given"][1:] == (
        "dataset: the validation set has 1 image: one is 100 % of the accuracy by which trials are compared",
        "dataset: the validation set has no images of a",
        "dataset: the validation set has a single image of b",
        "dataset: the test set has 1 image: one is 100 % of the accuracy that is reported",
        "dataset: the test set has no images of b",
        "dataset: the test set has a single image of a",
    )
    assert found["cut"] == (
        "dataset: the validation set has 4 images: one is 25 % of the accuracy by which trials are compared",
        "dataset: the validation set has no images of c",
        "dataset: the test set has 6 images: one is 16.7 % of the accuracy that is reported",
        "dataset: the test set has no images of c",
    )


def test_white_space_and_case_of_names_can_be_seen(tmp_path: Path) -> None:
    paths = [f"{folder}/{number}.png" for folder in ("Cat", "cat", "owl ", "wren") for number in range(3)]
    found = find_images(tree(tmp_path, *paths, "owl /a\u2028b\u202e.txt", "wren/ 4.txt"), 0.2)
    assert found.class_names == ("Cat", "cat", "owl ", "wren")
    assert found.notes == (
        "2 files that are not images were left out: 'owl /a\\u2028b\\u202e.txt', 'wren/ 4.txt'",
        "classes whose names differ only in case or white space are several classes: Cat = cat",
    )


def test_links_in_a_circle_are_left_out(tmp_path: Path) -> None:
    tree(tmp_path, *CLASSES)
    (tmp_path / "a/loop.png").symlink_to("loop.png")
    (tmp_path / "c").symlink_to("c")
    (tmp_path / "a/parent").symlink_to(tmp_path)
    assert find_images(tmp_path, 0.1).notes == (
        "2 links to nothing and special files were left out: a/loop.png, c",
        "1 folder inside a class folder was left out: a/parent",
    )


@pytest.mark.parametrize(
    ("path", "note"),
    [
        ("a/notes.txt", "1 file that is not an image was left out: a/notes.txt"),
        ("a/photo.heic", "1 image in a format that cannot be read was left out: a/photo.heic"),
        ("a/Thumbs.db", "1 hidden file or file of an operating system was left out: a/Thumbs.db"),
        ("__MACOSX/a/._1.png", "1 hidden file or file of an operating system was left out: __MACOSX"),
        ("a/._1.png", "1 hidden file or file of an operating system was left out: a/._1.png"),
        ("a/1_mask.png", "1 image whose name says that it is a mask of another image was left out: a/1_mask.png"),
        ("a/deep/9.png", "1 folder inside a class folder was left out: a/deep"),
        ("cover.png", "1 image outside class folders was left out: cover.png"),
    ],
)
def test_what_is_left_out_is_reported_with_its_reason(tmp_path: Path, path: str, note: str) -> None:
    found = find_images(tree(tmp_path, *CLASSES, path), 0.1)
    assert found.notes == (note,)
    assert counts(found) == {"train": 4, "test": 2}


def test_folders_beside_the_parts_are_reported(tmp_path: Path) -> None:
    found = find_images(tree(tmp_path, *parts(train="train", test="test"), "masks/1.png"), 0.1)
    assert found.notes == ("1 folder beside the parts was left out: masks",)


def test_a_folder_with_the_name_of_something_else_is_a_class_and_is_reported(tmp_path: Path) -> None:
    found = find_images(tree(tmp_path, *CLASSES, "train/1.png", "masks/1.png", "masks/2.png"), 0.1)
    assert found.class_names == ("a", "b", "masks", "train")
    assert found.notes == ("the folders masks, train are read as classes; move them away unless they are",)


@pytest.mark.parametrize("name", ["4.jfif", "4.JPE", "4", "photo 1.5", "4.pbm"])
def test_images_with_rare_names_are_used(tmp_path: Path, name: str) -> None:
    found = find_images(tree(tmp_path, *CLASSES, f"a/{name}"), 0.1)
    assert found.notes == ()
    assert sum(counts(found).values()) == 7


def test_a_file_without_a_suffix_that_is_no_image_is_left_out(tmp_path: Path) -> None:
    tree(tmp_path, *CLASSES)
    (tmp_path / "a/LICENSE").write_text("free")
    assert find_images(tmp_path, 0.1).notes == ("1 file that is not an image was left out: a/LICENSE",)


def test_a_file_without_a_suffix_that_cannot_be_opened_is_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be an image: the reader names it, with the reason."""
    tree(tmp_path, *CLASSES, "a/4")

    def refuse(path: Path, *arguments: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    found = find_images(tmp_path, 0.1)
    assert found.notes == ()
    assert sum(counts(found).values()) == 7


def test_classes_are_the_same_however_their_accents_are_encoded(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    tree(tmp_path, f"train/{composed}/1.png", f"train/{composed}/2.png", "train/tea/1.png")
    tree(tmp_path, f"test/{decomposed}/1.png", "test/tea/1.png")
    found = find_images(tmp_path, 0.1)
    assert found.class_names == (composed, "tea")
    assert [label for label, _ in found.parts["test"]] == [0, 1]
    tree(tmp_path, f"train/{decomposed}/2.png")
    with pytest.raises(DataError, match="has two folders whose names look the same, café;"):
        find_images(tmp_path, 0.1)


def test_the_test_set_of_version_0_1_is_chosen(tmp_path: Path) -> None:
    """From what version 0.1 chose of these names: a stored experiment keeps its test set."""
    found = find_images(tree(tmp_path, *(f"{name}/{index}.png" for name in ("a", "b") for index in range(20))), 0.15)
    names = [found.name(path) for _, path in found.parts["test"]]
    assert names == ["a/0.png", "a/6.png", "a/8.png", "b/0.png", "b/6.png", "b/8.png"]


def test_no_more_is_listed_than_allowed(tmp_path: Path) -> None:
    tree(tmp_path, *CLASSES)
    assert sum(counts(find_images(tmp_path, 0.1, Limits(8, 0))).values()) == 6
    with pytest.raises(TooManyEntriesError):
        find_images(tmp_path, 0.1, Limits(7, 0))


def test_a_test_set_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"must have a class of at least two images.*\(got one image in each of 2 classes"
    ):
        find_images(tree(tmp_path, "a/1.png", "b/1.png"), 0.2)


def test_every_entry_counts_once(tmp_path: Path) -> None:
    """Also those of a folder that may be a class or a part, which is looked at before it is read."""
    names = (f"train/{number}.png" for number in range(10))
    tree(tmp_path, *names, "train/.hidden", "b/1.png", "b/2.png", "c/1.png", "c/2.png")
    most = 3 + 11 + 2 + 2
    found = find_images(tmp_path, 0.2, Limits(most, 0))
    assert (found.class_names, sum(counts(found).values())) == (("b", "c", "train"), 14)
    assert [note for note in found.notes if "hidden" in note] == [
        "1 hidden file or file of an operating system was left out: train/.hidden"
    ]
    with pytest.raises(TooManyEntriesError):
        find_images(tmp_path, 0.2, Limits(most - 1, 0))


def test_a_path_that_no_file_system_has_is_a_problem(tmp_path: Path) -> None:
    spec = ImageFolder(path="x" * 300)
    assert [problem.field for problem in spec.check(tmp_path).problems] == ["dataset.path"]
    assert spec.check(tmp_path).notes == ()


def test_a_validation_set_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at least two training images.*\(got one in each of 2 classes"):
        find_images(tree(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png"), 0.2)


def test_names_are_of_one_line(tmp_path: Path) -> None:
    paths = [f"{folder}/{number}.png" for folder in ("a", "b\n  note  x\t\x1b[2J") for number in range(3)]
    found = find_images(tree(tmp_path, *paths), 0.2)
    assert found.class_names == ("a", "b\\x0a  note  x\\x09\\x1b[2J")
