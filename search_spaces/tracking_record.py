"""TrackingRecord: up to where MLflow has an experiment's journal, and in which runs, as `tracking.json` stores it.

Owns the content of that file, once for the driver, which writes it, and the service. Code that trains can write any
other content there, so reading it is bounded. It must not know MLflow.
"""

from __future__ import annotations

import logging
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from search_spaces.layout import NAMES
from search_spaces.storage.base import ArtifactStore, NotAFileError

MAX_BYTES = 2**24  # a trial takes 45 bytes

log = logging.getLogger(__name__)

Count = Annotated[int, Field(ge=0, lt=2**63)]


class TrackingRecord(BaseModel):
    """`mark` identifies what was before `offset`; `runs` are the runs in MLflow by trial."""

    model_config = ConfigDict(frozen=True, strict=True)

    offset: Count
    mark: int | None = None
    writer: Count
    experiment: str | None
    parent: str | None
    runs: dict[Count, str]

    @classmethod
    def read(cls, artifacts: ArtifactStore) -> TrackingRecord | None:
        """The stored record; None if there is none, or it is not one. Raises OSError if the storage fails."""
        try:
            with artifacts.open_reader(NAMES.tracking) as file:
                content = file.read(MAX_BYTES + 1)
            if len(content) > MAX_BYTES:
                raise ValueError(f"must have at most {MAX_BYTES} bytes (got more)")
            return cls.model_validate_json(content)
        except FileNotFoundError:
            return None
        except ValidationError as error:
            why = error.errors(include_url=False, include_context=False, include_input=False)[0]["msg"]
        except (NotAFileError, ValueError) as error:
            why = str(error)
        log.warning("%s cannot be read, so it counts as missing: %s", NAMES.tracking, why)
        return None

    def write(self, artifacts: ArtifactStore) -> None:
        """Replace the stored record. Raises OSError."""
        artifacts.write(NAMES.tracking, self.model_dump_json().encode())
