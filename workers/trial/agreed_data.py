"""Agreed data: what the processes of an experiment have found its data set to be, which must be the same for all.

Owns how they load it, the comparison of what a process has loaded with what earlier ones had, and the report that they
share. It must not know what is done with the data. Torch is imported only where it is used, so that the driver can
import this module quickly.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.datasets.base import DatasetSpec
from search_spaces.datasets.report import DataReport
from search_spaces.layout import NAMES
from search_spaces.protocol import ErrorKind
from search_spaces.storage.base import ArtifactStore, DocumentTooLargeError, open_storage, read_document
from workers.failures.classification import NodeError
from workers.nodes import this_node, using_storage

if TYPE_CHECKING:
    from search_spaces.experiment import TrialSpec
    from workers.data.splits import Splits

log = logging.getLogger(__name__)

#: The images of a split, as sentences name them.
IMAGES = {"train": "training", "validation": "validation", "test": "test"}


def load_agreed(
    spec: TrialSpec, data_root: Path, cache_root: Path, storage: str, agreed: Mapping[str, str] | None = None
) -> tuple[Splits, dict[str, str]]:
    """The data of a trial, which are those of earlier ones, and their digests.

    Each file is looked at unless somebody has done so lately, and again before other data are reported: they may have
    been restored since then. Raises DataError, and what `agree` raises.
    """
    from workers.data.splits import load

    is_first = not is_reported(storage)  # others may have read the files before they were changed
    splits = load(spec.dataset, spec.split_seed, data_root, cache_root, every_file=is_first)
    try:
        return splits, agree(spec.dataset, splits, storage, agreed)
    except NodeError as error:
        if is_first or error.kind is not ErrorKind.DATA:
            raise
    splits = load(spec.dataset, spec.split_seed, data_root, cache_root, every_file=True)
    return splits, agree(spec.dataset, splits, storage, agreed)


def agree(
    dataset: DatasetSpec, splits: Splits, storage: str, agreed: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Write what is known of the data, unless an earlier trial wrote the same. Returns its digests.

    `agreed` are those of the journal, by which other data are noticed whatever becomes of the report: they are None
    until a trial has finished an epoch, and in journals of earlier versions. Raises NodeError for other data than those
    of an earlier trial, as results on the two cannot be compared, and for a storage in which this cannot be read.
    """
    from workers.data.report import difference, report

    found, artifacts = report(dataset, splits), open_storage(storage).artifacts
    with using_storage(storage):
        earlier = _earlier(artifacts)
    other = (difference(earlier, found) if earlier else "") or _other_digests(agreed or {}, found.digests())
    if other:
        node, name = this_node()
        why = f"node {name} has other data than earlier trials of this experiment: {other}"
        raise NodeError(f"{why}; restore the data set, or submit a new experiment", node, ErrorKind.DATA)
    if found != earlier:
        try:
            artifacts.write(NAMES.data_report, found.model_dump_json(indent=2).encode())
        except OSError as error:
            log.warning("what is known of the data could not be written: %s", error)
    return found.digests()


def is_reported(storage: str) -> bool:
    """Whether an earlier trial has written what it found the data to be. Raises NodeError."""
    with using_storage(storage):
        return _earlier(open_storage(storage).artifacts) is not None


def _earlier(artifacts: ArtifactStore) -> DataReport | None:
    """What an earlier trial found the data to be; None where there is no such report, or a damaged one."""
    try:
        return DataReport.model_validate_json(read_document(artifacts, NAMES.data_report))
    except FileNotFoundError:
        return None
    except (DocumentTooLargeError, ValueError) as error:
        log.warning("what an earlier trial found the data to be cannot be read: %s", error)
        return None


def _other_digests(agreed: Mapping[str, str], found: Mapping[str, str]) -> str:
    """What differs, of what both have; empty if nothing does."""
    others = [part for part, digest in agreed.items() if found.get(part, digest) != digest]
    if not others:
        return ""
    images = [IMAGES[part] for part in others if part in IMAGES]
    return f"its {' and '.join(images)} images are others" if images else "its classes have other names"
