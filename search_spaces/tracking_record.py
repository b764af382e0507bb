"""TrackingRecord: up to where MLflow has an experiment's journal, and in which runs, as `tracking.json` stores it.

Owns the content of that file, once for the driver, which writes it, and the service. Code that trains can write any
other content there, so reading it is bounded. It must not know MLflow.
"""

from __future__ import annotations

import logging
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from search_spaces.layout import NAMES
from search_spaces.storage.base import ArtifactStore, DocumentTooLargeError, NotAFileError, read_document

log = logging.getLogger(__name__)

Count = Annotated[int, Field(ge=0, lt=2**63)]


class TrackingRecord(BaseModel):
    """`mark` identifies what was before `offset`; `runs` are the runs in MLflow by trial.

    `experiment` is MLflow's, `of` the id of Rung's; None in records of version 0.1.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    offset: Count
    mark: int | None = None
    writer: Count
    experiment: str | None
    parent: str | None
    runs: dict[Count, str]
    of: str | None = None

    @classmethod
    def read(cls, artifacts: ArtifactStore, experiment_id: str) -> TrackingRecord | None:
        """The stored record of an experiment; None if there is none, or it is not one, or that of another experiment.

        Raises OSError if the storage fails.
        """
        try:
            record = cls.model_validate_json(read_document(artifacts, NAMES.tracking))
            if record.of not in (None, experiment_id):
                raise ValueError(f"it is that of experiment {record.of}")
            return record
        except FileNotFoundError:
            return None
        except ValidationError as error:
            why = error.errors(include_url=False, include_context=False, include_input=False)[0]["msg"]
        except (NotAFileError, DocumentTooLargeError, ValueError) as error:
            why = str(error)
        log.warning("%s cannot be read, so it counts as missing: %s", NAMES.tracking, why)
        return None

    def write(self, artifacts: ArtifactStore) -> None:
        """Replace the stored record. Raises OSError."""
        artifacts.write(NAMES.tracking, self.model_dump_json().encode())
