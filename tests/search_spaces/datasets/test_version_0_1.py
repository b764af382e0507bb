"""Experiments that version 0.1 began on an image folder continue on the images that it read, pixel for pixel.

The expected values were printed by version 0.1 itself, which read the same folders with the same spec.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from search_spaces.datasets import ImageFolder
from search_spaces.datasets.base import DataCheck, DataError
from search_spaces.problems import SpecError
from search_spaces.stored import read_spec, read_trial_spec
from search_spaces.validation import validate
from tests.support.image_files import save_image
from tests.support.version_0_1_folder import digests, write_folders
from workers.data.splits import load

DATASET = {"validation_fraction": 0.2, "name": "image_folder", "size": 8, "test_fraction": 0.25}
FLAT_CLASSES, PART_CLASSES = ["__MACOSX", "owl", "val", "wren"], ["owl", "wren"]
EXPECTED = {
    ("flat", "grey"): {
        "classes": FLAT_CLASSES,
        "mean": [0.497857],
        "train": "32 0e135a8c09305dfe",
        "validation": "8 9fef7784e152127f",
        "test": "12 3c89bb64c13c7323",
    },
    ("flat", "rgb"): {
        "classes": FLAT_CLASSES,
        "mean": [0.485118, 0.506367, 0.487649],
        "train": "32 26e538ee0649996e",
        "validation": "8 80fcc2bd27a1b39b",
        "test": "12 600bc8663b9d7741",
    },
    ("parts", "grey"): {
        "classes": PART_CLASSES,
        "mean": [0.486679],
        "train": "20 7950f59bfa17f536",
        "validation": "6 744a17a299f62d3c",
        "test": "26 ad63ac58380c4387",
    },
    ("parts", "rgb"): {
        "classes": PART_CLASSES,
        "mean": [0.481756, 0.489433, 0.485205],
        "train": "20 99bb803408e50920",
        "validation": "6 bb2806e931c87046",
        "test": "26 b430bfb68d2fe1e5",
    },
}


def stored(path: str, color: str = "rgb") -> dict[str, Any]:
    """An experiment spec as version 0.1 stored it."""
    dataset = DATASET | {"path": path, "color": color, "mirror_safe": False}
    return {"version": 1, "name": "old", "dataset": dataset, "asha": {"max_t": 3}}


@pytest.mark.parametrize(("path", "color"), EXPECTED)
def test_the_same_images_are_read(tmp_path: Path, path: str, color: str) -> None:
    write_folders(tmp_path)
    spec = read_spec(stored(path, color))
    splits = load(spec.dataset, 3, tmp_path, tmp_path / "cache")
    assert digests(splits) == EXPECTED[path, color]
    assert splits.notes[0] == "the folder is read as version 0.1 read it (dataset.reader_version: 1)"
    assert "photo.jfif" in splits.notes[1]
    assert spec.dataset.check(tmp_path) == DataCheck()
    new = load(validate(stored(path, color)).dataset, 3, tmp_path, tmp_path / "cache")
    assert digests(new) != EXPECTED[path, color], "a new experiment reads it by the rules of today"


def test_stored_trials_continue_as_trials_of_their_experiment() -> None:
    spec = read_spec(stored("flat"))
    trial = spec.bind({})
    document = trial.model_dump(mode="json")
    for later in ("reader_version", "background", "value_range", "damaged"):
        del document["dataset"][later]
    assert read_trial_spec(document) == trial
    assert (read_spec(spec.model_dump_json()), read_trial_spec(trial.model_dump_json())) == (spec, trial)


def test_specs_that_later_versions_stored_keep_their_rules() -> None:
    spec = validate(stored("flat"))
    assert isinstance(spec.dataset, ImageFolder)
    assert spec.dataset.reader_version == 2
    document = spec.model_dump(mode="json")
    assert read_spec(document).dataset == spec.dataset
    del document["dataset"]["reader_version"]  # as the builds between the two versions stored it
    assert read_spec(document).dataset == spec.dataset


def test_images_without_content_end_an_old_experiment_too(tmp_path: Path) -> None:
    for name in ("owl", "wren"):
        for index in range(4):
            save_image(tmp_path / "flat" / name / f"{index}.png", (0, 0, 0))
    with pytest.raises(DataError, match=r"submit the spec as a new experiment without dataset\.reader_version"):
        load(read_spec(stored("flat")).dataset, 0, tmp_path, tmp_path / "cache")


def test_images_that_were_not_too_large_are_read(tmp_path: Path) -> None:
    """Of more pixels than a new experiment accepts."""
    for name in ("owl", "wren"):
        for index in range(5):
            save_image(tmp_path / "flat" / name / f"{index}.png", (40 * index, 0, 0))
    Image.new("1", (8100, 8100), 1).save(tmp_path / "flat" / "owl" / "large.png")
    splits = load(read_spec(stored("flat")).dataset, 0, tmp_path, tmp_path / "cache")
    assert len(splits.train_labels) + len(splits.validation_labels) + len(splits.test()[1]) == 11
    with pytest.raises(DataError, match="must have at most 64 million pixels"):
        load(validate(stored("flat")).dataset, 0, tmp_path, tmp_path / "cache")


def test_fields_that_the_old_reader_does_not_know_are_refused_with_it() -> None:
    dataset = {"name": "image_folder", "path": "flat", "reader_version": 1, "damaged": "skip"}
    assert validate({"name": "x", "dataset": dataset})
    with pytest.raises(SpecError) as caught:
        validate({"name": "x", "dataset": dataset | {"value_range": [0, 9], "background": "black"}})
    assert [(problem.field, problem.rule) for problem in caught.value.problems] == [
        ("dataset", "must not have value_range and background with reader_version 1")
    ]
