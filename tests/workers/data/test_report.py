"""What is reported of a data set: by `rung data`, and by the first trial that reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from search_spaces.datasets import Digits, ImageFolder
from search_spaces.datasets.report import DataReport
from service.cli import app
from tests.support.odd_pictures import patterned, save_png16
from workers.data.report import report
from workers.data.splits import load


def birds(root: Path, white: int = 4095) -> None:
    """A data set with every split, of pictures with 12 bits."""
    for split, count in (("train", 6), ("valid", 2), ("Test", 3)):
        for label, name in enumerate(("owl", "wren")):
            for index in range(count + label):
                low = 100 * len(split) + 10 * index + label
                save_png16(root / split / name / f"{index}.png", patterned(index, low, white))
    (root / "train" / "owl" / "notes.txt").write_text("seen in May")


def read(dataset: Any, root: Path) -> DataReport:
    return report(dataset, load(dataset, 0, root, root / "cache"))


def test_a_folder_with_every_split(tmp_path: Path) -> None:
    birds(tmp_path / "birds")
    found = read(ImageFolder(path="birds", size=12, color="grey"), tmp_path)
    assert found.classes == ["owl", "wren"]
    assert found.counts == {"train": [6, 7], "validation": [2, 3], "test": [3, 4]}
    assert found.shape == [1, 12, 12]
    assert (found.sizes, found.modes, found.skipped) == ({"12x12": 25}, {"I;16": 25}, 0)
    assert found.values == [500, 4095]
    assert found.value_range == [0, 4095]
    assert found.layout == (
        "train is the train set, valid is the validation set, Test is the test set; validation_fraction is not used"
    )
    assert any("owl/notes.txt" in note for note in found.notes)


def test_the_digest_is_of_the_test_files_whatever_their_names(tmp_path: Path) -> None:
    birds(tmp_path / "birds")
    dataset = ImageFolder(path="birds", size=12)
    first = read(dataset, tmp_path).test_sha256
    (tmp_path / "birds/Test/owl/0.png").rename(tmp_path / "birds/Test/owl/9.png")
    (tmp_path / "birds/train/owl/0.png").unlink()
    assert read(dataset, tmp_path).test_sha256 == first
    save_png16(tmp_path / "birds/Test/owl/9.png", patterned(0, 1, 4095))
    assert read(dataset, tmp_path).test_sha256 != first


def test_the_images_of_each_split_have_a_digest(tmp_path: Path) -> None:
    birds(tmp_path / "birds")
    dataset = ImageFolder(path="birds", size=12)
    first = read(dataset, tmp_path)
    assert len({first.train_sha256, first.validation_sha256, first.test_sha256}) == 3
    (tmp_path / "birds/train/owl/0.png").rename(tmp_path / "birds/train/owl/9.png")
    renamed = read(dataset, tmp_path)
    assert (renamed.train_sha256, renamed.validation_sha256) == (first.train_sha256, first.validation_sha256)
    save_png16(tmp_path / "birds/train/owl/9.png", patterned(0, 1, 4095))
    second = read(dataset, tmp_path)
    assert (second.train_sha256 == first.train_sha256, second.validation_sha256) == (False, first.validation_sha256)
    (tmp_path / "birds/valid/owl/1.png").rename(tmp_path / "birds/valid/wren/9.png")
    third = read(dataset, tmp_path)
    assert (third.train_sha256, third.test_sha256) == (second.train_sha256, first.test_sha256)
    assert third.validation_sha256 != first.validation_sha256


def test_data_that_are_no_files(tmp_path: Path) -> None:
    found = read(Digits(), tmp_path)
    assert found.classes == [str(digit) for digit in range(10)]
    assert [found.images(split) for split in ("train", "validation", "test")] == [1294, 144, 359]
    assert (found.shape, found.sizes, found.layout, found.values) == ([1, 8, 8], {}, None, None)
    assert found == read(Digits(), tmp_path)
    assert len(found.test_sha256) == 64


@pytest.fixture
def rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    environment = {
        "RUNG_HOME": str(tmp_path / "home"),
        "RUNG_DATA_ROOT": str(tmp_path),
        "RUNG_URL": "http://127.0.0.1:9",
    }
    runner = CliRunner(env=environment)
    return lambda *arguments: runner.invoke(app, ["data", *arguments])


def test_data_are_shown_before_any_search(tmp_path: Path, rung: Any) -> None:
    birds(tmp_path / "birds")
    shown = rung("birds")
    assert shown.exit_code == 0, shown.stderr
    rows = [line.split() for line in shown.stdout.splitlines()[:4]]
    assert rows == [
        ["class", "train", "validation", "test"],
        ["owl", "6", "2", "3"],
        ["wren", "7", "3", "4"],
        ["2", "classes", "13", "5", "7"],
    ]
    assert "  values    500 to 4095; 0 and 4095 are black and white\n" in shown.stdout
    assert shown.stdout.count("valid is the validation set") == 1
    (scaled,) = [line for line in shown.stdout.splitlines() if "25 images are not 8-bit" in line]
    assert scaled.endswith(" and 20 more"), "nothing is wrong with them: a few names are enough"
    assert f"of decoded data sets in {tmp_path / 'home/cache'}\n" in shown.stdout
    spec = {"name": "x", "dataset": {"name": "image_folder", "path": "birds", "size": 16, "color": "gray"}}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    answer = json.loads(rung("spec.json", "--json").stdout)
    assert DataReport.model_validate(answer["report"]).shape == [1, 16, 16]
    assert answer["cache"]["bytes"] > 25 * 3 * 64 * 64, "the data of the first command are there too"


def test_data_that_cannot_be_used_are_an_error(tmp_path: Path, rung: Any) -> None:
    for name in ("owl", "wren"):
        (tmp_path / "grey" / name).mkdir(parents=True)
        for index in range(3):
            Image.fromarray(np.full((9, 9), 7, np.uint8)).save(tmp_path / "grey" / name / f"{index}.png")
    refused = rung("grey")
    assert refused.exit_code == 2
    assert "all 6 images" in refused.stderr
    assert "are equal once decoded" in refused.stderr
    absent = rung("nowhere")
    assert absent.exit_code == 2
    assert f"there is no folder {tmp_path / 'nowhere'}" in absent.stderr
