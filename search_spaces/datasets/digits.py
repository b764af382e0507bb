"""Digits: scikit-learn's handwritten digits, which its package contains."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from search_spaces.datasets.base import DatasetReader, DatasetSpec, Destination

TEST_PLACE, TEST_PERIOD = 4, 5  # every fifth image, from the fifth on, is a test image
LARGEST_LEVEL = 16  # the files' gray levels are 0 to 16


class Digits(DatasetSpec):
    """scikit-learn's handwritten digits: 1,797 gray images of 8x8, every fifth image is in the test set."""

    classes: ClassVar[int | None] = 10
    training_images: ClassVar[int | None] = 1438
    side: ClassVar[int | None] = 8
    safe_rotation: ClassVar[float] = 30.0
    input_note: ClassVar[str] = (
        "The values of scikit-learn's digits are 0 to 16; convert them: (images / 16 * 255).round()."
    )
    name: Literal["digits"] = "digits"

    def reader(self, data_root: Path) -> DatasetReader:
        return DigitsReader()


class DigitsReader:
    replaces = None

    def identity(self) -> list[Any]:
        return ["digits"]

    def decode(self, destination: Destination, *, download: bool) -> dict[str, Any]:
        import numpy as np
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / LARGEST_LEVEL)).astype(np.uint8)[:, None]
        test = np.arange(len(images)) % TEST_PERIOD == TEST_PLACE
        for part, chosen in (("train", ~test), ("test", test)):
            destination.create_array(f"{part}_images", images[chosen].shape, np.uint8)[:] = images[chosen]
            destination.create_array(f"{part}_labels", (int(chosen.sum()),), np.int64)[:] = digits.target[chosen]
        return {"class_names": [str(name) for name in digits.target_names]}
