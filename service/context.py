"""AppContext: the parts of one running service, handed to routes and reconciler; there are no globals."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime

from service.adapters.cluster_cache import ClusterCache
from service.adapters.experiment_files import ExperimentFiles
from service.adapters.launcher import Launcher
from service.adapters.mlflow_client import MlflowClient
from service.domain.retry_policy import RetryPolicy
from service.settings import Settings
from service.store.database import Database


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class AppContext:
    """`wake` is set whenever the reconciler has something new to look at."""

    settings: Settings
    database: Database
    cluster_cache: ClusterCache
    launcher: Launcher
    mlflow: MlflowClient
    wake: threading.Event

    @property
    def retries(self) -> RetryPolicy:
        return RetryPolicy(self.settings.max_attempts, self.settings.retry_backoff_s)

    def files(self, experiment_id: str) -> ExperimentFiles:
        """The folder of an experiment that is known: ids of the database are names that no path can hide in."""
        return ExperimentFiles(self.settings.storage_root / experiment_id)
