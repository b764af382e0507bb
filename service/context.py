"""Context: the parts of one running service, handed to routes and reconciler; there are no globals."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime

from service.attempts import Retries
from service.cluster import ClusterWatch
from service.launcher import Launcher
from service.results import Results
from service.settings import Settings
from service.storage import Storage
from service.store.database import Database


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Context:
    """`wake` is set whenever the reconciler has something new to look at."""

    settings: Settings
    database: Database
    watch: ClusterWatch
    launcher: Launcher
    results: Results
    wake: threading.Event

    @property
    def retries(self) -> Retries:
        return Retries(self.settings.max_attempts, self.settings.retry_backoff_s)

    def storage(self, experiment_id: str) -> Storage:
        """The folder of an experiment that is known: ids of the database are names that no path can hide in."""
        return Storage(self.settings.storage_root / experiment_id)
