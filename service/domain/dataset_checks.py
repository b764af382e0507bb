"""Data sets: what the service itself can see to be absent, so that no experiment waits in vain for it.

The workers read the data; the service knows something only where it sees their data root too. It must not
decode anything.
"""

from __future__ import annotations

from pathlib import Path

from search_spaces.datasets import DatasetSpec, ImageFolder
from search_spaces.problems import Problem, SpecError


def check(dataset: DatasetSpec, data_root: Path) -> None:
    """Raise SpecError for an image folder that a data root in sight does not hold. Stock sets can be downloaded."""
    if not isinstance(dataset, ImageFolder) or not _in_sight(data_root):
        return
    if not (data_root / dataset.path).is_dir():
        raise SpecError([Problem("dataset.path", f"a folder in {data_root} required", dataset.path)])


def _in_sight(data_root: Path) -> bool:
    """An empty folder tells nothing: the workers may have another one mounted there."""
    try:
        return any(data_root.iterdir())
    except OSError:
        return False
