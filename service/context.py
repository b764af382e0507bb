"""AppContext: the parts of one running service, which routes and threads receive. There are no globals.

Owns how they are closed. It must not know who uses them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime

from service.adapters.cluster_cache import ClusterCache
from service.adapters.disk_use import DiskUse
from service.adapters.experiment_files import ExperimentFiles
from service.adapters.launcher import Launcher
from service.adapters.measurements import Measurements
from service.adapters.mlflow_client import MlflowClient
from service.adapters.observations import Observations
from service.adapters.probe import Probe
from service.adapters.storage_identity import StorageIdentity
from service.domain.retry_policy import RetryPolicy
from service.identity.authentication import Authentication
from service.identity.secret_box import SecretBox
from service.identity.sign_in import SignIn
from service.settings import Settings
from service.store.database import Database


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class AppContext:
    """Set `wake` whenever there is new work for the reconciler."""

    settings: Settings
    database: Database
    cluster_cache: ClusterCache
    launcher: Launcher
    mlflow: MlflowClient
    mlflow_probe: Probe
    disk_use: DiskUse
    storage: StorageIdentity
    storage_probe: Probe
    measurements: Measurements
    observations: Observations
    authentication: Authentication
    sign_in: SignIn
    secrets: SecretBox
    wake: threading.Event

    @property
    def retries(self) -> RetryPolicy:
        return RetryPolicy(self.settings.max_attempts, self.settings.retry_backoff_s)

    def files(self, experiment_id: str) -> ExperimentFiles:
        """The files of an experiment. The id must come from the database: it then contains no path."""
        return ExperimentFiles(f"{self.settings.storage_root}/{experiment_id}")

    def close(self) -> None:
        self.mlflow_probe.close()
        self.storage_probe.close()
        self.observations.close()
        self.mlflow.close()
        self.database.close()
