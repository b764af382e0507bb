"""What every DatasetReader promises. A test class inherits `DatasetReaderContract` and gives a `dataset`, and a
`data_root` that holds its files; a reader whose files may change or be absent gives those fixtures too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from search_spaces.datasets.base import DataError, DatasetReader, DatasetSpec, DataUnavailableError
from workers.data.cache import Draft
from workers.data.splits import load

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def decoded(reader: DatasetReader, folder: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays by name, and the facts."""
    folder.mkdir()
    facts = reader.decode(Draft(folder), download=False)
    return {name: np.load(folder / f"{name}.npy") for name in ARRAYS}, facts


def files_of(root: Path) -> dict[str, tuple[int, int]]:
    """Name -> (size, time of change) of everything under a folder."""
    paths = [Path(folder) / name for folder, _, names in os.walk(root) for name in names]
    return {str(path.relative_to(root)): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


class DatasetReaderContract:
    #: Gives a data root whose files hold other images; None where the content never changes.
    change: ClassVar[Callable[[Any, Path], None] | None] = None
    #: Makes the files unreadable; None where there are none.
    damage: ClassVar[Callable[[Any, Path], None] | None] = None

    @pytest.fixture
    def dataset(self) -> DatasetSpec:
        raise NotImplementedError

    @pytest.fixture
    def data_root(self, tmp_path: Path) -> Path:
        raise NotImplementedError

    def test_arrays_have_the_shapes_and_types_that_splits_need(
        self, dataset: DatasetSpec, data_root: Path, tmp_path: Path
    ) -> None:
        arrays, facts = decoded(dataset.reader(data_root), tmp_path / "decoded")
        names = facts["class_names"]
        assert len(names) == len(set(names)) >= 2
        for part in ("train", "test"):
            images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
            assert images.dtype == np.uint8
            assert labels.dtype == np.int64
            assert images.ndim == 4
            assert images.shape[1:] == arrays["train_images"].shape[1:]
            assert images.shape[1] in (1, 3)
            assert labels.shape == images.shape[:1]
            assert len(images) > 0
            assert 0 <= labels.min() <= labels.max() < len(names)
        assert json.loads(json.dumps(facts)) == facts

    def test_decoding_twice_gives_equal_arrays(self, dataset: DatasetSpec, data_root: Path, tmp_path: Path) -> None:
        first, _ = decoded(dataset.reader(data_root), tmp_path / "first")
        second, _ = decoded(dataset.reader(data_root), tmp_path / "second")
        for name in ARRAYS:
            assert np.array_equal(first[name], second[name])

    def test_identity_is_json_and_constant_while_the_files_do_not_change(
        self, dataset: DatasetSpec, data_root: Path
    ) -> None:
        identity = dataset.reader(data_root).identity()
        assert json.loads(json.dumps(identity)) == identity
        assert dataset.reader(data_root).identity() == identity

    def test_changed_files_have_another_identity(self, dataset: DatasetSpec, data_root: Path) -> None:
        if self.change is None:
            pytest.skip("the content never changes")
        before = dataset.reader(data_root).identity()
        self.change(data_root)
        assert dataset.reader(data_root).identity() != before

    def test_the_data_root_is_only_read(self, dataset: DatasetSpec, data_root: Path, tmp_path: Path) -> None:
        before = files_of(data_root)
        decoded(dataset.reader(data_root), tmp_path / "decoded")
        assert files_of(data_root) == before

    def test_a_reader_writes_only_its_arrays(self, dataset: DatasetSpec, data_root: Path, tmp_path: Path) -> None:
        decoded(dataset.reader(data_root), tmp_path / "decoded")
        written = {path.name for path in (tmp_path / "decoded").iterdir()}
        assert written - {"scratch"} == {f"{name}.npy" for name in ARRAYS}

    def test_the_error_for_damaged_files_contains_the_name_of_the_data_set(
        self, dataset: DatasetSpec, data_root: Path, tmp_path: Path
    ) -> None:
        if self.damage is None:
            pytest.skip("there are no files to damage")
        self.damage(data_root)
        with pytest.raises(DataError, match=dataset.model_dump()["name"]) as raised:
            load(dataset, 0, data_root, tmp_path / "cache", download=False)
        assert not isinstance(raised.value, DataUnavailableError), "another node would find the same"

    def test_the_error_for_absent_files_contains_the_name_of_the_data_set(
        self, dataset: DatasetSpec, tmp_path: Path
    ) -> None:
        if self.damage is None:
            pytest.skip("there are no files to miss")
        with pytest.raises(DataUnavailableError, match=dataset.model_dump()["name"]):
            load(dataset, 0, tmp_path / "nowhere", tmp_path / "cache", download=False)

    def test_every_split_has_images(self, dataset: DatasetSpec, data_root: Path, tmp_path: Path) -> None:
        splits = load(dataset, 0, data_root, tmp_path / "cache", download=False)
        assert len(splits.train_images) > 0
        assert len(splits.validation_images) > 0
        assert len(splits.test()[0]) > 0
        assert splits.classes == len(splits.class_names)
