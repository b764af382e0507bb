"""A launcher that keeps its jobs in memory: Ray as the reconciler sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from search_spaces.protocol import LaunchConfig
from service.adapters.launcher import BackgroundThread, ClusterUnreachableError, JobStatus
from service.domain.cluster import Cluster, Node


class MemoryLauncher:
    """Jobs by attempt id, the cluster's nodes, and a switch for an unreachable Ray."""

    def __init__(self) -> None:
        self.nodes = Cluster((Node("small", cpus=2, id="s"), Node("large", cpus=8, gpus=2, id="l")))
        self.unreachable = False
        self.jobs: dict[str, JobStatus] = {}
        self.launches: dict[str, LaunchConfig] = {}
        self.stopped: list[str] = []
        self.printed: dict[str, str] = {}
        self.commands: dict[str, tuple[str, ...]] = {}
        self.answer = ""  # what a short job prints
        self.placed: dict[str, list[str]] = {}

    def preload(self) -> None:
        """There is nothing to load."""

    def threads(self, is_idle: Callable[[], bool]) -> Sequence[BackgroundThread]:
        return ()

    def launch(self, launch: LaunchConfig) -> None:
        self._check_reachable()
        if launch.attempt_id in self.jobs:
            raise ClusterUnreachableError(f"a job named {launch.attempt_id} exists")
        self.jobs[launch.attempt_id] = JobStatus.RUNNING
        self.launches[launch.attempt_id] = launch

    def run(self, job: str, module: str, arguments: Sequence[str]) -> None:
        self._check_reachable()
        self.jobs[job] = JobStatus.SUCCEEDED
        self.commands[job] = (module, *arguments)
        self.printed[job] = self.answer

    def status(self, attempt_id: str) -> JobStatus:
        self._check_reachable()
        return self.jobs.get(attempt_id, JobStatus.UNKNOWN)

    def stop(self, attempt_id: str) -> None:
        self._check_reachable()
        if attempt_id in self.jobs:
            self.stopped.append(attempt_id)

    def logs(self, attempt_id: str) -> str:
        self._check_reachable()
        return self.printed.get(attempt_id, "")

    def cluster(self) -> Cluster:
        self._check_reachable()
        return self.nodes

    def trial_nodes(self) -> dict[str, list[str]]:
        self._check_reachable()
        return self.placed

    def _check_reachable(self) -> None:
        if self.unreachable:
            raise ClusterUnreachableError("connection refused")
