"""RayLauncher: starts, watches and stops drivers as Ray Jobs, and lists the cluster's nodes.

Owns all requests to Ray except those of `ray_warm_workers`, which calls the raylets. Ray is imported when it is first
needed, which takes about a second; `preload` does it ahead of time. Every request has a deadline, every answer a limit,
and an answer that is not Ray's is an outage like any other. It must not know the database or the states of an
experiment.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import quote

from search_spaces.protocol import LaunchConfig, Tag
from search_spaces.request_limits import AnswerTooLargeError, Read, RequestLimits
from service.adapters.launcher import ClusterUnreachableError, JobStatus, driver_command
from service.adapters.ray_warm_workers import WarmWorkers
from service.domain.cluster import Cluster, Node
from service.settings import Settings

CHUNK_BYTES = 65_536
MOST_OF_A_RESOURCE = 1e9  # sums and products of what all nodes have stay finite
#: What reading a document raises whose parts are not those that Ray sends.
UNEXPECTED = (KeyError, TypeError, AttributeError, ValueError, ArithmeticError)

#: A resource of which Ray gives its head node 1. Ray itself keeps a job there only if nothing is reserved for it.
HEAD_NODE = "node:__internal_head__"

NEW_NODE = "a new one"  # the name of a node that is not there yet: "the largest node, a new one, ..."

log = logging.getLogger(__name__)


def open_launcher(settings: Settings) -> RayLauncher:
    return RayLauncher(settings)


class RayLauncher:
    """Drivers as Ray Jobs, over the dashboard's REST interface."""

    def __init__(self, settings: Settings) -> None:
        self._address = settings.ray_dashboard_url
        self._limits = RequestLimits(settings.ray_timeout_s)
        self._python = settings.driver_python
        self._submit_timeout_s = settings.ray_submit_timeout_s
        self._reserved = reserved(settings)
        self._possible = tuple(Node(NEW_NODE, one.cpus, one.gpus, labels=one.labels) for one in settings.node_kinds)
        self._warm_workers = settings.warm_workers
        self._client: Any = None
        self._importing = threading.Lock()

    def preload(self) -> None:
        with self._importing:  # if two threads import Ray at once, some of its modules stay incomplete
            import ray.exceptions
            import ray.job_submission  # noqa: F401 - imported for later users

    def threads(self, is_idle: Callable[[], bool]) -> list[WarmWorkers]:
        return [WarmWorkers(self._warm_workers, self.raylets, is_idle)] if self._warm_workers else []

    def launch(self, launch: LaunchConfig) -> None:
        command = driver_command(self._python, launch)
        self._submit(launch.attempt_id, command, {Tag.EXPERIMENT_ID: launch.experiment_id}, self._reserved)

    def run(self, job: str, module: str, arguments: Sequence[str]) -> None:
        self._submit(job, [self._python, "-m", module, *arguments], {}, {})

    def status(self, attempt_id: str) -> JobStatus:
        answer = self._request("GET", f"/api/jobs/{quote(attempt_id)}", missing_ok=True)
        if not answer:
            return JobStatus.UNKNOWN
        try:
            return JobStatus(answer.get("status", ""))
        except ValueError:  # a newer Ray knows the job, and its heartbeats show whether it runs
            log.warning("unknown Ray job status for %s: %r", attempt_id, answer.get("status"))
            return JobStatus.PENDING

    def stop(self, attempt_id: str) -> None:
        self._request("POST", f"/api/jobs/{quote(attempt_id)}/stop", missing_ok=True)

    def logs(self, attempt_id: str) -> str:
        answer = self._request("GET", f"/api/jobs/{quote(attempt_id)}/logs", missing_ok=True)
        return str(answer.get("logs", ""))

    def cluster(self) -> Cluster:
        try:
            alive = [node for node in self._states("nodes", "detail=0") if node["state"] == "ALIVE"]
            nodes = tuple(sorted((_node(node) for node in alive), key=lambda node: node.name))
            return Cluster(nodes, possible=self._possible)
        except UNEXPECTED as error:
            raise self._unexpected("its list of nodes", error) from error

    def trial_nodes(self) -> dict[str, list[str]]:
        """Tune makes a placement group of one bundle for each trial. Those that wait have no node."""
        try:
            rows = self._states("jobs", "detail=0")
            attempts = {job["job_id"]: job["submission_id"] for job in rows if job.get("submission_id")}
            found: dict[str, list[str]] = {}
            for group in self._states("placement_groups", "detail=1"):
                attempt = attempts.get(group["creator_job_id"])
                nodes = [str(bundle["node_id"]) for bundle in group["bundles"] or () if bundle.get("node_id")]
                if attempt is not None and group["state"] == "CREATED":
                    found.setdefault(str(attempt), []).extend(nodes)
            return found
        except UNEXPECTED as error:
            raise self._unexpected("where trials run", error) from error

    def _states(self, kind: str, query: str) -> Iterator[dict[str, Any]]:
        """What Ray lists of a kind. Raises one of UNEXPECTED for what is no such list."""
        answer = self._request("GET", f"/api/v0/{kind}?limit=10000&{query}")
        yield from answer["data"]["result"]["result"]

    def raylets(self) -> list[str]:
        """host:port of the raylet of each living node."""
        answer = self._request("GET", "/nodes?view=summary")
        try:
            raylets = [node["raylet"] for node in answer["data"]["summary"]]
            return [f"{r['nodeManagerAddress']}:{r['nodeManagerPort']}" for r in raylets if r.get("state") == "ALIVE"]
        except UNEXPECTED as error:
            raise self._unexpected("its list of raylets", error) from error

    def _submit(self, job: str, command: Sequence[str], metadata: dict[Tag, str], reserved: dict[str, Any]) -> None:
        self._request(
            "POST",
            "/api/jobs/",
            timeout=self._submit_timeout_s,
            json_data={
                # No runtime_env: with one, Ray would start new processes instead of using the warm workers.
                "entrypoint": f"exec {shlex.join(command)}",
                "submission_id": job,
                "metadata": metadata,
                **reserved,
            },
        )

    def _request(self, method: str, path: str, *, missing_ok: bool = False, **options: Any) -> dict[str, Any]:
        try:
            client = self._client = self._client or self._connect()
            response = client._do_request(method, path, **options)
            if missing_ok and response.status_code == 404:
                return {}
            if response.status_code != 200:
                raise ClusterUnreachableError(
                    f"{method} {path.partition('?')[0]}: {response.status_code} {response.text[-500:]}"
                )
            answer = response.json()
        # requests' and Ray's errors are of these kinds, so is a document of too many levels
        except (OSError, RuntimeError, ValueError, AnswerTooLargeError) as error:
            self._client = None
            raise ClusterUnreachableError(f"Ray at {self._address} does not answer: {error}") from error
        if not isinstance(answer, dict):
            raise self._unexpected(path.partition("?")[0], TypeError(f"an object, not {type(answer).__name__}"))
        return answer

    def _connect(self) -> Any:
        self.preload()
        try:
            return _client(self._address, self._limits)
        except UNEXPECTED as error:
            raise self._unexpected("its version", error) from error

    def _unexpected(self, what: str, error: Exception) -> ClusterUnreachableError:
        return ClusterUnreachableError(f"Ray at {self._address} does not answer as expected: {what}: {error!r:.500}")


def reserved(settings: Settings) -> dict[str, Any]:
    """What Ray reserves for a driver, and where it runs: on the head node, unless nodes are labeled for drivers."""
    asked: dict[str, Any] = {
        "entrypoint_num_cpus": settings.driver_cpus,
        "entrypoint_memory": settings.driver_memory_mb * 1_000_000,
        "entrypoint_label_selector": settings.driver_node_labels,
        "entrypoint_resources": {} if settings.driver_node_labels else {HEAD_NODE: 0.001},
    }
    return {name: value for name, value in asked.items() if value}


def _client(address: str, limits: RequestLimits) -> Any:
    """Ray's own client, which finds the token as Ray does, with limits added."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, method: str, endpoint: str, *, timeout: float | None = None, **options: Any) -> Any:
            ask, timeout = super()._do_request, timeout or limits.timeout_s

            def request(read: Read) -> Any:
                def keep(response: Any, **_: Any) -> None:  # requests calls it before it reads the body
                    with contextlib.closing(response.raw) as raw:
                        response.raw = io.BytesIO(read(_chunks(raw)))

                return ask(method, endpoint, timeout=timeout, hooks={"response": [keep]}, **options)

            try:
                return limits.run(request, timeout)
            except AuthenticationError as error:
                raise RuntimeError(str(error).partition("\n")[0]) from error

    try:
        return Client(address)
    except AuthenticationError as error:  # a token is required and missing
        raise RuntimeError(str(error).partition("\n")[0]) from error


def _chunks(raw: Any) -> Iterator[bytes]:
    """The body of a response of urllib3, decoded, each part as it arrives."""
    from urllib3.exceptions import HTTPError

    try:
        while chunk := raw.read1(CHUNK_BYTES, decode_content=True):
            yield chunk
    except HTTPError as error:
        raise OSError(f"its answer ended early or cannot be decoded: {error}") from error


def _node(state: dict[str, Any]) -> Node:
    """Raises one of UNEXPECTED for what is not a node."""
    resources = state.get("resources_total") or {}
    return Node(
        name=str(state.get("node_name") or state.get("node_ip") or state["node_id"]),
        cpus=_amount(resources.get("CPU", 0)),
        gpus=_amount(resources.get("GPU", 0)),
        id=str(state["node_id"]),
        labels={str(name): str(value) for name, value in (state.get("labels") or {}).items()},
    )


def _amount(value: Any) -> float:
    if not 0 <= (amount := float(value)) <= MOST_OF_A_RESOURCE:
        raise ValueError(f"the amount of a resource must be between 0 and {MOST_OF_A_RESOURCE:g} (got {amount})")
    return amount
