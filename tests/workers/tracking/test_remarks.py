"""What the note of an experiment's run in MLflow says besides what the experiment is."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces.datasets.image_folder.findings import File, identical
from search_spaces.datasets.report import DataReport
from search_spaces.insight import Finalist, Replication
from search_spaces.layout import NAMES
from search_spaces.storage.folder import FolderStorage
from service.presentation.data_sets import data
from tests.support.data_reports import data_report
from tests.support.insights import insight
from workers.tracking.remarks import remarks


def of_copies(count: int) -> DataReport:
    """A data set of which so many images of the test set are in the training set too."""
    files = [
        File(part, 0, f"{part}/{number}.png", str(number)) for part in ("train", "test") for number in range(count)
    ]
    return data_report(notes=[*data_report().notes, *identical(files, ["owl", "wren"], validation_is_cut=True)])


def write(tmp_path: Path, content: bytes) -> FolderStorage:
    storage = FolderStorage(tmp_path)
    storage.artifacts.write(NAMES.data_report, content)
    return storage


def test_images_of_the_test_set_that_are_in_the_training_set_too_as_rung_show_reports_them(tmp_path: Path) -> None:
    report = of_copies(2)
    [remark] = remarks(write(tmp_path, report.model_dump_json().encode()).artifacts, None)
    assert remark.startswith("2 files of test are identical to files of train and validation, so the test result looks")
    assert remark in [fact.text for fact in data(report)]


def test_many_images_are_not_all_named(tmp_path: Path) -> None:
    [remark] = remarks(write(tmp_path, of_copies(90).model_dump_json().encode()).artifacts, None)
    assert remark.startswith("90 files of test are identical")
    assert len(remark) == 500
    assert remark.endswith("...")


@pytest.mark.parametrize("content", [None, b"{", data_report().model_dump_json().encode()])
def test_data_of_which_nothing_is_known_have_no_remark(tmp_path: Path, content: bytes | None) -> None:
    storage = write(tmp_path, content) if content else FolderStorage(tmp_path)
    assert remarks(storage.artifacts, insight()) == []


def test_a_tie_of_finalists(tmp_path: Path) -> None:
    def of(*means: float) -> list[str]:
        finalists = [
            Finalist(trial=number, runs=[], values=[mean], mean=mean, sd=None) for number, mean in enumerate(means)
        ]
        replication = Replication(chosen=0, finalists=finalists)
        return remarks(FolderStorage(tmp_path).artifacts, insight(replication=replication))

    [remark] = of(0.95, 0.95, 0.94, 0.95)
    assert remark == (
        "a tie: trials 0, 1 and 3 have the same mean over 1 fresh seed, 0.9500, and trial 0 was chosen because its "
        "number is the lowest"
    )
    assert of(0.95, 0.94999) == []
    assert of(0.95) == []
