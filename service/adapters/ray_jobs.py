"""Launcher: starts, watches and stops drivers as Ray Jobs, and looks at the cluster's nodes.

All that the service says to Ray is said here, but for `warm_workers`, which speaks to the raylets.
Ray is imported when first needed, which takes about a second: `warm` does it ahead of time. Every
request has a time limit. It must not know the database or the states of an experiment.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

from search_spaces.layout import ExperimentFolder
from search_spaces.protocol import LaunchConfig, Tag
from service.adapters.launcher import ClusterUnreachableError, JobStatus
from service.domain.cluster import Cluster, Node
from service.settings import Settings

log = logging.getLogger(__name__)


class RayLauncher:
    """Drivers as Ray Jobs, over the dashboard's REST interface."""

    def __init__(self, settings: Settings) -> None:
        self._address = settings.ray_dashboard_url
        self._timeout_s = settings.ray_timeout_s
        self._python = settings.driver_python
        self._submit_timeout_s = settings.ray_submit_timeout_s
        self._client: Any = None
        self._importing = threading.Lock()

    def preload(self) -> None:
        with self._importing:  # modules of Ray's that two threads import at once stay half made for good
            import ray.exceptions
            import ray.job_submission  # noqa: F401

    def prepare(self, launch: LaunchConfig, spec: dict[str, Any]) -> None:
        folder = ExperimentFolder(Path(launch.storage))
        folder.root.mkdir(parents=True, exist_ok=True)
        _write(folder.spec, json.dumps(spec, indent=2))
        _write(folder.launch_config(launch.attempt), launch.model_dump_json(indent=2))

    def launch(self, launch: LaunchConfig) -> None:
        command = [self._python, "-m", "workers.driver", launch.storage, str(launch.attempt)]
        self._request(
            "POST",
            "/api/jobs/",
            timeout=self._submit_timeout_s,
            json_data={
                # No runtime_env: with one, Ray would start fresh processes where warm ones wait.
                "entrypoint": f"exec {shlex.join(command)}",
                "submission_id": launch.attempt_id,
                "metadata": {Tag.EXPERIMENT_ID: launch.experiment_id},
            },
        )

    def status(self, attempt_id: str) -> JobStatus:
        answer = self._request("GET", f"/api/jobs/{quote(attempt_id)}", missing_ok=True)
        if not answer:
            return JobStatus.UNKNOWN
        try:
            return JobStatus(answer.get("status", ""))
        except ValueError:  # of a newer Ray, which does know the job: its heartbeats say whether it lives
            log.warning("Ray says of %s what it never said: %r", attempt_id, answer.get("status"))
            return JobStatus.PENDING

    def stop(self, attempt_id: str) -> None:
        self._request("POST", f"/api/jobs/{quote(attempt_id)}/stop", missing_ok=True)

    def logs(self, attempt_id: str) -> str:
        answer = self._request("GET", f"/api/jobs/{quote(attempt_id)}/logs", missing_ok=True)
        return str(answer.get("logs", ""))

    def cluster(self) -> Cluster:
        answer = self._request("GET", "/api/v0/nodes?limit=10000&detail=0")
        try:
            nodes = answer["data"]["result"]["result"]
            alive = [node for node in nodes if node["state"] == "ALIVE"]
            return Cluster(tuple(sorted((_node(node) for node in alive), key=lambda node: node.name)))
        except (KeyError, TypeError) as error:
            raise ClusterUnreachableError(f"the list of nodes of {self._address} cannot be read: {error!r}") from error

    def raylets(self) -> list[str]:
        """host:port of the raylet of each living node."""
        answer = self._request("GET", "/nodes?view=summary")
        raylets = [node["raylet"] for node in answer["data"]["summary"]]
        return [f"{r['nodeManagerAddress']}:{r['nodeManagerPort']}" for r in raylets if r.get("state") == "ALIVE"]

    def _request(self, method: str, path: str, *, missing_ok: bool = False, **options: Any) -> dict[str, Any]:
        try:
            if self._client is None:
                self.preload()
                self._client = _client(self._address, self._timeout_s)
            response = self._client._do_request(method, path, **options)
            if missing_ok and response.status_code == 404:
                return {}
            if response.status_code != 200:
                raise ClusterUnreachableError(
                    f"{method} {path.partition('?')[0]}: {response.status_code} {response.text[-500:]}"
                )
            answer: dict[str, Any] = response.json()
            return answer
        except (OSError, RuntimeError, ValueError) as error:  # requests' and Ray's errors are of these kinds
            self._client = None
            raise ClusterUnreachableError(f"Ray at {self._address} does not answer: {error}") from error


def _client(address: str, timeout_s: float) -> Any:
    """Ray's own client, which finds the token as Ray does, with a time limit that it lacks."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            try:
                return super()._do_request(method, endpoint, **{"timeout": timeout_s, **options})
            except AuthenticationError as error:
                raise RuntimeError(str(error).partition("\n")[0]) from error

    try:
        return Client(address)
    except AuthenticationError as error:  # no token where one is needed
        raise RuntimeError(str(error).partition("\n")[0]) from error


def _node(state: dict[str, Any]) -> Node:
    resources = state.get("resources_total") or {}
    return Node(
        name=str(state.get("node_name") or state.get("node_ip") or state["node_id"]),
        cpus=float(resources.get("CPU", 0)),
        gpus=float(resources.get("GPU", 0)),
    )


def _write(path: Path, text: str) -> None:
    """Whole or not at all, and for the owner's eyes only."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
