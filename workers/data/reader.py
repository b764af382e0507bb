"""DatasetReader: how the files of one kind of data set become arrays.

Owns the protocol and the way from a spec to its reader: a spec class names its reader in `reader`, so there is no
table to extend and no default. To add a kind, write the spec class in `search_spaces/datasets.py` and, unless an
existing reader reads it, one reader in this package; a data set of torchvision's needs only the spec class.
`tests/support/contracts/dataset_reader.py` is the contract. It must not know splits or the training loop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from search_spaces.datasets import DatasetSpec
from workers.targets import resolve_target


class DatasetReader(Protocol):
    """A data set, found but not yet read. Made with `(spec, data_root)`, which looks for files and opens none.

    Every method raises DataError for what a person can put right; other exceptions are turned into one by the
    caller, so that whatever goes wrong with data is a data error.
    """

    @property
    def replaces(self) -> str | None:
        """A name shared by all contents that this source has had, of which only the newest matter; None if the
        content never changes."""

    def identity(self) -> list[Any]:
        """JSON values that the decoded content depends on: equal identity, equal arrays."""

    def decode(self, folder: Path, *, download: bool) -> dict[str, Any]:
        """Write `train_images` and `test_images` (uint8 [N, C, H, W]), `train_labels` and `test_labels` (int64 [N])
        into `folder` with `cache.create_array`.

        Returns JSON facts: `class_names` by label, and optionally `notes` for a person. It never writes to the data
        root. `download` says whether absent files may be fetched.
        """


def reader_of(dataset: DatasetSpec, data_root: Path) -> DatasetReader:
    """The reader that the spec's class names. Raises DataError for an absent data set."""
    reader: DatasetReader = resolve_target(dataset.reader)(dataset, data_root)
    return reader
