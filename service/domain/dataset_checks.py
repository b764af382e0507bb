"""Data set checks: reject a data set that the service knows to be missing, so that no experiment waits for it.

The workers read the data. The service only knows something where it has access to their data root. It must not decode
anything.
"""

from __future__ import annotations

from pathlib import Path

from search_spaces.datasets import DatasetSpec
from search_spaces.problems import SpecError


def check(dataset: DatasetSpec, data_root: Path) -> None:
    """Raise SpecError for the problems that a data set finds in the data root, if the service has access to it."""
    if _is_accessible(data_root) and (problems := list(dataset.problems(data_root))):
        raise SpecError(problems)


def _is_accessible(data_root: Path) -> bool:
    """An empty folder proves nothing: the workers may have another one mounted at this path."""
    try:
        return any(data_root.iterdir())
    except OSError:
        return False
