"""Launcher: the seam to what runs drivers. Owns what the service asks of it, what it may answer, and `open_launcher`.

It must not know how a driver is run: each module of `launchers` does that in its own way.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from search_spaces.protocol import LaunchConfig
from service.adapters import launchers
from service.domain.cluster import Cluster
from service.settings import Settings


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


class BackgroundThread(Protocol):
    """A thread that starts and stops with the service."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Launcher(Protocol):
    """Runs drivers on a cluster. All methods except `preload` and `threads` raise ClusterUnreachableError."""

    def preload(self) -> None:
        """Do slow preparations ahead of time, such as imports."""

    def threads(self, is_idle: Callable[[], bool]) -> Sequence[BackgroundThread]:
        """What it does in the background of the replica that runs the queue. `is_idle`: no experiment is active."""

    def launch(self, launch: LaunchConfig) -> None:
        """Start the driver; its files have been written. Raises ClusterUnreachableError also for a used attempt id."""

    def run(self, job: str, module: str, arguments: Sequence[str]) -> None:
        """Start a short job where drivers run: `python -m module arguments`. The other methods take its name, too."""

    def status(self, attempt_id: str) -> JobStatus: ...

    def stop(self, attempt_id: str) -> None:
        """Ask the driver's process to end. Does nothing if it has ended or is unknown."""

    def logs(self, attempt_id: str) -> str:
        """What the driver printed, as far as the cluster still has it; otherwise empty."""

    def cluster(self) -> Cluster:
        """The living nodes."""

    def trial_nodes(self) -> Mapping[str, Sequence[str]]:
        """The ids of the nodes on which the trials of each attempt run, one for each trial, by attempt id."""


def driver_command(python: str, launch: LaunchConfig) -> list[str]:
    """The command line of a driver, for a machine of the cluster whose Python is `python`."""
    return [python, "-m", "workers.driver", launch.storage, str(launch.attempt)]


def open_launcher(settings: Settings) -> Launcher:
    """The launcher that the settings name, which have checked that it exists."""
    module = importlib.import_module(f"{launchers.__name__}.{settings.launcher}")
    opened: Launcher = module.open_launcher(settings)
    return opened
