"""Dataset checks: refuse a dataset that the service can see to be missing, so that no experiment waits for it.

The workers read the data. The service only knows something where it has access to their data root. It must not decode
anything.
"""

from __future__ import annotations

from pathlib import Path

from search_spaces.datasets import DatasetSpec, ImageFolder
from search_spaces.problems import Problem, SpecError


def check(dataset: DatasetSpec, data_root: Path) -> None:
    """Raise SpecError for an image folder that is missing in the data root. Builtin datasets can be downloaded."""
    if not isinstance(dataset, ImageFolder) or not _is_accessible(data_root):
        return
    if not (data_root / dataset.path).is_dir():
        raise SpecError([Problem("dataset.path", f"must be a folder in {data_root}", dataset.path)])


def _is_accessible(data_root: Path) -> bool:
    """An empty folder proves nothing: the workers may have another one mounted at this path."""
    try:
        return any(data_root.iterdir())
    except OSError:
        return False
