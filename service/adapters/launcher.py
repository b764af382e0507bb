"""Launcher: the seam to what runs drivers. Owns what the service asks of it and what it may answer.

Its one implementation is `ray_jobs`. It must not know how a driver is run.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from search_spaces.protocol import LaunchConfig
from service.domain.cluster import Cluster


class JobStatus(StrEnum):
    """The state of a driver's job. UNKNOWN: it was never submitted, or the cluster lost it in a restart."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"


ALIVE = frozenset({JobStatus.PENDING, JobStatus.RUNNING})


class ClusterUnreachableError(Exception):
    """The cluster does not answer, or answers with an error."""


class Launcher(Protocol):
    """Runs drivers on a cluster. All methods except `preload` raise ClusterUnreachableError."""

    def preload(self) -> None:
        """Do slow preparations ahead of time, such as imports."""

    def launch(self, launch: LaunchConfig) -> None:
        """Start the driver; its files have been written. Raises ClusterUnreachableError also for a used attempt id."""

    def status(self, attempt_id: str) -> JobStatus: ...

    def stop(self, attempt_id: str) -> None:
        """Ask the driver's process to end. Does nothing if it has ended or is unknown."""

    def logs(self, attempt_id: str) -> str:
        """What the driver printed, as far as the cluster still has it; otherwise empty."""

    def cluster(self) -> Cluster:
        """The living nodes."""
