"""A report on a data set, as trials write it."""

from __future__ import annotations

from typing import Any

from search_spaces.datasets.report import DataReport


def data_report(**changes: Any) -> DataReport:
    fields: dict[str, Any] = {
        "name": "image_folder",
        "path": "birds",
        "classes": ["owl", "wren"],
        "counts": {"train": [6, 5], "validation": [2, 1], "test": [3, 4]},
        "shape": [3, 64, 64],
        "layout": "train is the train set, test is the test set",
        "sizes": {"640x480": 20},
        "other_sizes": 1,
        "modes": {"I;16": 21},
        "values": [0.0, 4095.0],
        "value_range": [0.0, 4095.0],
        "notes": ["1 file that is not an image was left out: owl/notes.txt"],
        "test_sha256": "ab" * 32,
    }
    return DataReport(**fields | changes)
