"""Context: the parts of one running service, handed to routes and reconciler; there are no globals."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime

from service.adapters.cluster_cache import ClusterWatch
from service.adapters.experiment_files import Storage
from service.adapters.mlflow_client import Results
from service.adapters.ray_jobs import Launcher
from service.domain.retry_policy import Retries
from service.settings import Settings
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
