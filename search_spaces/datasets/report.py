"""Report: what Rung knows of a data set once it has been read.

The workers make it, and the service shows it. It must not know how data are read, nor what is shown of it.
"""

from __future__ import annotations

import hashlib
import json

from pydantic import BaseModel, ConfigDict, Field

#: In a note of images of the test set that are in another set too.
LEAK = "so the test result looks better than it is"


class DataReport(BaseModel):
    """A data set as it was read and split. Ignores unknown fields: newer workers may write more."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(description="Name of the data set, as in the spec.")
    path: str | None = Field(
        None, description="Folder of the images, relative to the workers' data root, or its address in a bucket."
    )
    classes: list[str] = Field(description="Names of the classes, in the order of the network's outputs.")
    counts: dict[str, list[int]] = Field(
        description="Number of images of each class, in the order of `classes`, for each split: `train`, `validation` "
        "and `test`."
    )
    shape: list[int] = Field(description="Channels, height and width of the images that a network gets.")
    layout: str | None = Field(None, description="Which folders are which splits; null unless images are in folders.")
    sizes: dict[str, int] = Field(
        default_factory=dict,
        description="Number of files for each of the most frequent sizes in pixels, such as `640x480`.",
    )
    other_sizes: int = Field(0, description="Number of files of other sizes.")
    modes: dict[str, int] = Field(
        default_factory=dict, description="Number of files for each color mode, by Pillow's names, such as `RGB`."
    )
    values: list[float] | None = Field(
        None, description="Smallest and largest value in the training images that are not 8-bit; null if all are."
    )
    value_range: list[float] | None = Field(
        None, description="The values that became black and white in images that are not 8-bit; null if all are."
    )
    not_finite: int = Field(0, description="Number of images that hold NaN or infinite values.")
    skipped: int = Field(0, description="Number of damaged files that were left out.")
    notes: list[str] = Field(default_factory=list, description="What a person should know of the files.")
    train_sha256: str | None = Field(
        None,
        description="Digest of the pixels and the classes of the training images; null if read by an earlier version.",
    )
    validation_sha256: str | None = Field(None, description="The same for the validation images.")
    test_sha256: str = Field(
        description="Digest of the content and the classes of the test images: results are comparable if it is equal."
    )

    def digests(self) -> dict[str, str]:
        """What identifies the data that results depend on: of the names of the classes, and of each split."""
        classes = hashlib.sha256(json.dumps(self.classes).encode()).hexdigest()
        splits = {"train": self.train_sha256, "validation": self.validation_sha256, "test": self.test_sha256}
        return {"classes": classes} | {split: digest for split, digest in splits.items() if digest}

    def leaks(self) -> list[str]:
        """The notes of images of the test set that are in another set too."""
        return [note for note in self.notes if LEAK in note]

    def images(self, split: str) -> int:
        """The number of images in a split."""
        return sum(self.counts.get(split, ()))
