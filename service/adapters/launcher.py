"""Launcher: the seam to what runs drivers. Owns what the service asks of it and what it may answer.

Its one implementation is `ray_jobs`. It must not know how a driver is run.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

from search_spaces.protocol import LaunchConfig
from service.domain.cluster import Cluster


class JobStatus(StrEnum):
    """What Ray says of a driver. UNKNOWN: Ray has never heard of it, or forgot it when it was started anew."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"


ALIVE = frozenset({JobStatus.PENDING, JobStatus.RUNNING})


class ClusterUnreachableError(Exception):
    """Ray does not answer, or not as Ray does."""


class Launcher(Protocol):
    """What the reconciler needs of a cluster. All methods but `prepare` raise ClusterUnreachableError."""

    def preload(self) -> None:
        """Do ahead of time what takes long."""

    def prepare(self, launch: LaunchConfig, spec: dict[str, Any]) -> None:
        """Write what the driver will read into its storage folder. Raises OSError."""

    def launch(self, launch: LaunchConfig) -> None:
        """Start the driver. An attempt id can be used once."""

    def status(self, attempt_id: str) -> JobStatus: ...

    def stop(self, attempt_id: str) -> None:
        """Ask the driver's process to end. Nothing happens where it is gone already."""

    def logs(self, attempt_id: str) -> str:
        """All that the driver printed, as far as Ray still has it."""

    def cluster(self) -> Cluster:
        """The living nodes."""
