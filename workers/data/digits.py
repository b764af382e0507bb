"""DigitsReader: scikit-learn's handwritten digits, which its package contains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.datasets import Digits
from workers.data.cache import create_array

TEST_PLACE, TEST_PERIOD = 4, 5  # every fifth image, from the fifth on, is a test image
LARGEST_LEVEL = 16  # the files' grey levels are 0 to 16


class DigitsReader:
    replaces = None

    def __init__(self, spec: Digits, data_root: Path) -> None:
        self._name = spec.name

    def identity(self) -> list[Any]:
        return [self._name]

    def decode(self, folder: Path, *, download: bool) -> dict[str, Any]:
        from sklearn.datasets import load_digits  # here, because importing scikit-learn takes a second

        digits = load_digits()
        images = np.rint(digits.images * (255 / LARGEST_LEVEL)).astype(np.uint8)[:, None]
        test = np.arange(len(images)) % TEST_PERIOD == TEST_PLACE
        for part, chosen in (("train", ~test), ("test", test)):
            create_array(folder, f"{part}_images", images[chosen].shape, np.uint8)[:] = images[chosen]
            create_array(folder, f"{part}_labels", (int(chosen.sum()),), np.int64)[:] = digits.target[chosen]
        return {"class_names": [str(name) for name in digits.target_names]}
