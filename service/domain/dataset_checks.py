"""Data set checks: reject a data set that the service knows to be missing or unusable, before anything waits for it.

The workers read the data. The service only knows something where it has access to their data root. It must not decode
anything.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from search_spaces.datasets import DatasetSpec
from search_spaces.problems import Problem, SpecError

MAX_FOLDERS = 1000  # in which a file is looked for


def check(dataset: DatasetSpec, data_root: Path, shared: bool = False, buckets: Sequence[str] = ()) -> list[str]:
    """What a person should know of the files of a data set, one sentence each. The files are looked at once.

    Raises SpecError for the problems that the data set finds in the data root, if the service has access to it.
    `shared`: the workers are known to have the same data root, so that even an empty one proves something. `buckets`
    are the addresses below which data sets may be: the workers could read more than users may.
    """
    if dataset.address is not None:
        return _check_bucket(dataset, dataset.address, data_root, buckets)
    folder = dataset.folder(data_root)
    if not shared and (reason := _unknown(data_root)):
        if folder is None:
            return []
        return [f"dataset: {folder} was not checked, because {data_root} {reason} on the service's machine"]
    found = dataset.check(data_root)
    if not found.problems or (found.local and not shared):
        return list(found.notes)
    if shared or folder is None or not os.path.isdir(folder) or _holds_a_file(folder):
        raise SpecError(found.problems)
    return [f"dataset: {folder} was not checked, because it holds no file on the service's machine"]


def _check_bucket(dataset: DatasetSpec, address: str, data_root: Path, buckets: Sequence[str]) -> list[str]:
    if not any(f"{address}/".startswith(f"{allowed}/") for allowed in buckets):
        rule = f"must be below one of the addresses of RUNG_DATA_BUCKETS, {', '.join(buckets) or 'which has none'}"
        raise SpecError([Problem("dataset.path", rule, address)])
    return list(dataset.check(data_root).notes)


def _unknown(data_root: Path) -> str:
    """Why the folder proves nothing, or "": the workers may have another one mounted at this path."""
    try:
        return "" if any(data_root.iterdir()) else "is empty"
    except OSError as error:
        return f"cannot be listed ({error.strerror})"


def _holds_a_file(folder: Path) -> bool:
    return any(files for _, _, files in islice(os.walk(folder, followlinks=True), MAX_FOLDERS))
