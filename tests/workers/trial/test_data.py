"""The data of trials: what the first one tells of them, and that no other one trains on others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from search_spaces.datasets.report import DataReport
from search_spaces.experiment import DATASETS
from search_spaces.layout import ExperimentFolder
from search_spaces.protocol import ErrorKind
from search_spaces.storage.base import MAX_DOCUMENT_BYTES
from tests.support.trial_slots import begun
from workers.data import cache
from workers.data.splits import load
from workers.failures.classification import TrialError


def test_the_first_trial_tells_what_the_data_are(
    config: Callable[..., dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = config()
    begun(told).step()
    path = ExperimentFolder(Path(told["storage"])).data_report
    found = DataReport.model_validate_json(path.read_bytes())
    assert (found.name, len(found.classes), found.images("test")) == ("digits", 10, 359)
    before = path.stat().st_mtime_ns
    begun(config(number=1)).step()
    assert path.stat().st_mtime_ns == before, "a second trial that finds the same writes nothing"
    path.write_text("{")
    begun(config(number=2)).step()
    assert DataReport.model_validate_json(path.read_bytes()) == found, "a damaged one is replaced"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"train_sha256": "0" * 64}, "its training images are others"),
        ({"train_sha256": "0" * 64, "validation_sha256": "0"}, "its training and validation images are others"),
        ({"test_sha256": "0" * 64}, "its test images are others"),
        ({"counts": {"train": [9], "validation": [1], "test": [2]}}, "instead of 9 train, 1 validation, 2 test"),
        ({"classes": ["cat", "dog"]}, "its classes are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 instead of cat, dog"),
    ],
)
def test_a_trial_is_not_trained_on_other_data_than_those_it_is_compared_with(
    config: Callable[..., dict[str, Any]], changed: dict[str, Any], why: str
) -> None:
    told = config()
    begun(told).step()
    path = ExperimentFolder(Path(told["storage"])).data_report
    found = DataReport.model_validate_json(path.read_bytes())
    path.write_text(found.model_copy(update=changed).model_dump_json())
    for one in (told, config(number=1)):  # also where it resumes
        with pytest.raises(TrialError) as raised:
            begun(one).step()
        failure = raised.value.failure
        assert failure.kind is ErrorKind.DATA or failure.node is not None
        assert "has other data than earlier trials of this experiment" in failure.reason
        assert why in failure.reason
    path.write_text(found.model_dump_json())
    assert begun(told).step()["epoch"] == 1


#: Of two classes, below the data root.
PICTURES = {"name": "image_folder", "path": "pictures", "size": 8, "color": "gray", "validation_fraction": 0.5}


def save_picture(folder: Path, number: int, level: int) -> None:
    """One picture, of one gray level."""
    path = folder / f"{'ab'[number % 2]}/{number}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), level).save(path)


def pictures(folder: Path, replaced: int | None = None) -> None:
    """A train set of 20 pictures of two classes; the content of one may be another than at first."""
    for number in range(20):
        save_picture(folder, number, 10 * number + (number == replaced))


@pytest.mark.parametrize("replaced", range(0, 20, 4))
def test_a_replaced_picture_is_noticed_whatever_split_it_is_in(
    config: Callable[..., dict[str, Any]], tmp_path: Path, replaced: int
) -> None:
    pictures(tmp_path / "data/pictures")
    told = config(dataset=PICTURES)
    begun(told).step()
    (tmp_path / f"data/pictures/{'ab'[replaced % 2]}/{replaced}.png").unlink()
    pictures(tmp_path / "data/pictures", replaced)
    with pytest.raises(TrialError, match=r"its (training|validation|test) images are others") as raised:
        begun(told).step()
    assert raised.value.failure.kind is ErrorKind.DATA


def test_data_that_were_restored_are_those_of_before_though_the_others_were_read_just_now(
    config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    save = partial(save_picture, tmp_path / "data/pictures")

    def known(**options: bool) -> dict[str, str]:
        return load(DATASETS.validate_python(PICTURES), 0, tmp_path / "data", tmp_path / "cache", **options).digests

    for number in range(140):  # of which half are looked at
        save(number, number)
    told = config(dataset=PICTURES)
    begun(told).step()
    before = known()
    for number in range(140):
        save(number, 255 - number)
        known(every_file=True)
        save(number, number)
        if known() != before:
            break  # the file is no test image, and not one of the few that are looked at
    assert known() != before
    assert begun(config(number=1, dataset=PICTURES)).step()["epoch"] == 1


def test_the_first_trial_looks_at_every_file_though_somebody_has_read_the_folder_just_now(
    config: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Otherwise it would be trained on pictures of before, and a trial after ten minutes would find others."""
    save = partial(save_picture, tmp_path / "data/pictures")

    def known() -> str:
        """What somebody else who reads the folder finds."""
        return load(DATASETS.validate_python(PICTURES), 0, tmp_path / "data", tmp_path / "cache").digests["train"]

    def trained(name: str) -> dict[str, str]:
        told = config(name=name, dataset=PICTURES)
        begun(told).step()
        return DataReport.model_validate_json(
            ExperimentFolder(Path(told["storage"])).data_report.read_bytes()
        ).digests()

    for number in range(140):
        save(number, number)
    first = trained("of before")
    noted = known()
    for number in range(140):
        save(number, 255 - number)
        if known() == noted:
            break  # the file is not one of the few that are looked at
        noted = known()
    found = trained("first")
    [note] = (tmp_path / "cache").glob(f"*{cache.RECALL_SUFFIX}")
    note.unlink()
    assert found == trained("later") != first


LOSSES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "damaged": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "missing": lambda path: path.unlink(),
    "too large": lambda path: os.truncate(path, MAX_DOCUMENT_BYTES + 1),
}


@pytest.mark.parametrize("lost", LOSSES)
def test_other_data_are_noticed_though_the_report_is_lost(
    config: Callable[..., dict[str, Any]], tmp_path: Path, lost: str
) -> None:
    pictures(tmp_path / "data/pictures")
    told = config(dataset=PICTURES)
    told["data"] = begun(told).step()["data"]
    path = ExperimentFolder(Path(told["storage"])).data_report
    before = path.read_bytes()
    LOSSES[lost](path)
    assert begun(told).step()["data"] == told["data"], "the same data are no matter"
    assert path.read_bytes() == before
    LOSSES[lost](path)
    for name, other in (("a", "c"), ("b", "a"), ("c", "b")):
        (tmp_path / "data/pictures" / name).rename(tmp_path / "data/pictures" / other)
    with pytest.raises(TrialError, match=r"has other data than .*: its training and validation and test images") as it:
        begun(told).step()
    assert it.value.failure.kind is ErrorKind.DATA
    (tmp_path / "data/pictures/a").rename(tmp_path / "data/pictures/c")
    (tmp_path / "data/pictures/b").rename(tmp_path / "data/pictures/a")
    (tmp_path / "data/pictures/c").rename(tmp_path / "data/pictures/x")
    with pytest.raises(TrialError, match="its classes have other names"):
        begun(told).step()


@pytest.mark.parametrize("misplaced", ["file", "folder"])
def test_a_link_in_the_place_of_the_report_is_a_failure_of_the_storage(
    config: Callable[..., dict[str, Any]], tmp_path: Path, misplaced: str
) -> None:
    told = config()
    begun(told).step()
    path = ExperimentFolder(Path(told["storage"])).data_report
    moved = path if misplaced == "file" else path.parent
    moved.rename(tmp_path / "elsewhere")
    moved.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrialError, match=r"cannot use RUNG_STORAGE_ROOT .*data/dataset\.json") as raised:
        begun(told).step()
    assert raised.value.failure.kind is ErrorKind.NODE


def test_a_report_of_a_version_without_digests_is_completed(config: Callable[..., dict[str, Any]]) -> None:
    told = config()
    begun(told).step()
    path = ExperimentFolder(Path(told["storage"])).data_report
    found = path.read_text()
    earlier = {name: value for name, value in json.loads(found).items() if name.partition("_")[0] != "train"}
    del earlier["validation_sha256"]
    path.write_text(json.dumps(earlier))
    assert begun(told).step()["epoch"] == 1
    assert path.read_text() == found
