"""JournalCursor: how far MLflow has been told what the journal says, and in which runs.

Owns the file `tracking.json`. Where it is lost or the journal was cut since, all is told again from the
beginning. It must not know MLflow's client, nor what the journal's entries mean.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

from search_spaces.storage.atomic import atomic_write
from workers.state import journal

log = logging.getLogger("rung.place")


@dataclass(frozen=True)
class MlflowIds:
    """Where the curves go; None until MLflow has answered."""

    experiment: str | None
    parent: str | None
    runs: dict[int, str]


@dataclass
class JournalCursor:
    """All entries before `offset` are in MLflow; `writer` is that of the last of them; `runs` by trial.

    `mark` is the journal's at `offset`; None of older versions.
    """

    offset: int = 0
    mark: int | None = None
    writer: int = 0
    experiment: str | None = None
    parent: str | None = None
    runs: dict[int, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, journal_path: Path) -> JournalCursor:
        """The place that was kept; its offset is the beginning where it cannot be read or the journal was cut since."""
        try:
            stored = json.loads(path.read_text())
            cursor = cls(**stored | {"runs": {int(number): run for number, run in stored["runs"].items()}})
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            log.warning("%s cannot be read, all is sent again: %r", path, error)
            return cls()
        mark = journal.checksum_at(journal_path, cursor.offset)
        if mark == -1 or cursor.mark not in (None, mark):
            log.warning("the journal is not what MLflow was told of, all is sent again")
            cursor.offset, cursor.writer, cursor.mark = 0, 0, None
        return cursor

    def ids(self) -> MlflowIds:
        return MlflowIds(self.experiment, self.parent, dict(self.runs))

    def save(self, path: Path) -> None:
        """Keep the place. Where that fails, what came after the older one will be told twice, and stands once."""
        try:
            atomic_write(path, json.dumps(asdict(self)).encode())
        except OSError as error:
            log.warning("an older place is kept: %s", error)
