"""Agreed data: what the processes of an experiment have found its data set to be, which must be the same for all.

Owns the comparison of what a process has loaded with what earlier ones had, and the report that they share. It must not
know what is done with the data. Torch is imported only where it is used, so that the driver can import this module
quickly.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from search_spaces.datasets.base import DatasetSpec
from search_spaces.datasets.report import DataReport
from search_spaces.layout import NAMES
from search_spaces.protocol import ErrorKind
from search_spaces.storage.base import ArtifactStore, read_document
from workers.failures.classification import NodeError
from workers.nodes import this_node

if TYPE_CHECKING:
    from workers.data.splits import Splits

log = logging.getLogger(__name__)


def agree(dataset: DatasetSpec, splits: Splits, artifacts: ArtifactStore) -> None:
    """Write what is known of the data, unless an earlier trial wrote the same.

    Raises NodeError for other data than those of an earlier trial: results on the two cannot be compared.
    """
    from workers.data.report import difference, report

    found, earlier = report(dataset, splits), _earlier(artifacts)
    if earlier is not None and (other := difference(earlier, found)):
        node, name = this_node()
        why = f"node {name} has other data than earlier trials of this experiment: {other}"
        raise NodeError(f"{why}; restore the data set, or submit a new experiment", node, ErrorKind.DATA)
    if found == earlier:
        return
    try:
        artifacts.write(NAMES.data_report, found.model_dump_json(indent=2).encode())
    except OSError as error:
        log.warning("what is known of the data could not be written: %s", error)


def _earlier(artifacts: ArtifactStore) -> DataReport | None:
    """What an earlier trial found the data to be; None where that cannot be read."""
    try:
        return DataReport.model_validate_json(read_document(artifacts, NAMES.data_report))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("what an earlier trial found the data to be cannot be read: %s", error)
        return None
