"""Remarks: what the note of an experiment's run in MLflow says besides what the experiment is.

Owns which sentences these are: the ones that `rung show` has too. It must not know MLflow.
"""

from __future__ import annotations

import logging

from search_spaces.datasets.report import DataReport
from search_spaces.finalist_ties import tie
from search_spaces.insight import Insight
from search_spaces.layout import NAMES
from search_spaces.storage.base import ArtifactStore, read_document

MOST_CHARACTERS = 500  # of a sentence that lists images

log = logging.getLogger(__name__)


def remarks(artifacts: ArtifactStore, insight: Insight | None) -> list[str]:
    """That finalists tie, and that images of the test set are in another set too. A report of the data that cannot be
    read costs only the latter."""
    tied = tie(insight.replication) if insight else ""
    return [*([tied] if tied else []), *map(_shortened, _leaks(artifacts))]


def _leaks(artifacts: ArtifactStore) -> list[str]:
    try:
        return DataReport.model_validate_json(read_document(artifacts, NAMES.data_report)).leaks()
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        log.warning("the note does not report what is known of the data: %r", error)
        return []


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
