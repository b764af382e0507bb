"""RayLauncher against a small server of the dashboard's REST interface, which can also answer wrongly."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from search_spaces.protocol import LaunchConfig
from service.adapters.launcher import ALIVE, ClusterUnreachableError, JobStatus, Launcher
from service.adapters.launchers.ray_jobs import RayLauncher, reserved
from service.domain.cluster import Cluster, Node
from service.settings import Settings
from tests.support.contracts.launcher import RemoteLauncherContract, launch_config
from tests.support.handlers import QuietHandler, handling

VERSION = {"version": "4", "ray_version": "2.60.0", "ray_commit": "x", "session_name": "x"}
#: What Ray answers of a node, as far as the service reads it.
NODES = [
    {"node_id": "b", "node_name": "10.0.0.2", "state": "ALIVE", "resources_total": {"CPU": 8.0, "GPU": 2.0, "x": 1.0}},
    {"node_id": "a", "node_ip": "10.0.0.1", "state": "ALIVE", "resources_total": {"CPU": 2.0, "memory": 1e9}},
    {"node_id": "c", "node_ip": "10.0.0.3", "state": "DEAD", "resources_total": {"CPU": 64.0}},
    {"node_id": "d", "node_ip": "10.0.0.4", "state": "ALIVE", "resources_total": None},
]


#: What Ray lists of jobs and of placement groups, as far as the service reads it.
STATES = {
    "/api/v0/jobs": [
        {"job_id": "01000000", "submission_id": "exp-k3v9q2mz-a2", "type": "SUBMISSION"},
        {"job_id": "02000000", "submission_id": None, "type": "DRIVER"},
        {"job_id": None, "submission_id": "exp-k3v9q2mz-a1", "type": "SUBMISSION"},
    ],
    "/api/v0/placement_groups": [
        {"creator_job_id": "01000000", "state": "CREATED", "bundles": [{"node_id": "a"}]},
        {"creator_job_id": "01000000", "state": "CREATED", "bundles": [{"node_id": "b"}]},
        {"creator_job_id": "01000000", "state": "PENDING", "bundles": [{"node_id": ""}]},
        {"creator_job_id": "01000000", "state": "REMOVED", "bundles": [{"node_id": "b"}]},
        {"creator_job_id": "02000000", "state": "CREATED", "bundles": [{"node_id": "a"}]},
    ],
}


class Dashboard:
    """Jobs by their id, and answers that a test may put in place of the usual ones."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.stopped: list[str] = []
        self.instead: dict[str, tuple[int, Any]] = {}
        self.broken = False
        self.tokens: set[str | None] = set()
        self.address = ""

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        path = path.partition("?")[0]
        if self.broken:
            return 502, "bad gateway"
        if path in self.instead:
            return self.instead[path]
        if path == "/api/version":
            return 200, VERSION
        if path == "/api/v0/nodes":
            return 200, {"result": True, "data": {"result": {"total": len(NODES), "result": NODES}}}
        if path in STATES:
            return 200, {"result": True, "data": {"result": {"total": 1, "result": STATES[path]}}}
        if (method, path) == ("POST", "/api/jobs/"):
            if body["submission_id"] in self.jobs:
                return 500, "a job of this id was submitted before"
            self.jobs[body["submission_id"]] = body
            return 200, {"job_id": None, "submission_id": body["submission_id"]}
        _, _, _, job, *rest = path.split("/")
        if job not in self.jobs:
            return 404, f"Job {job} does not exist"
        if rest == ["stop"]:
            self.stopped.append(job)
            return 200, {"stopped": True}
        return 200, {"logs": "größer\n"} if rest == ["logs"] else {"status": "RUNNING", "submission_id": job}


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    found = Dashboard()

    class Handler(QuietHandler):
        def respond(self) -> None:
            found.tokens.add(self.headers.get("Authorization"))
            status, document = found.answer(self.command, self.path, json.loads(self.body() or "null"))
            self.answer(status, (document if isinstance(document, str) else json.dumps(document)).encode())

    with handling(Handler) as address:
        found.address = address
        yield found


@pytest.fixture
def ray_launcher(settings: Settings, dashboard: Dashboard) -> RayLauncher:
    given = {
        "ray_dashboard_url": dashboard.address,
        "driver_python": "/opt/a b/python",
        "ray_timeout_s": 5,
        "warm_workers": 1,
    }
    return RayLauncher(Settings(**{**settings.model_dump(), **given}))


@pytest.fixture
def launcher(ray_launcher: RayLauncher) -> RayLauncher:
    return ray_launcher


@pytest.fixture
def launch(tmp_path: Path) -> LaunchConfig:
    return launch_config(tmp_path / "it's", attempt=2)


class TestRayLauncher(RemoteLauncherContract):
    @pytest.fixture(autouse=True)
    def _dashboard(self, dashboard: Dashboard) -> None:
        self.dashboard = dashboard

    @pytest.fixture
    def launcher(self, ray_launcher: RayLauncher) -> Launcher:
        return ray_launcher

    def cut_off(self, launcher: Launcher, reachable: bool) -> None:
        self.dashboard.broken = not reachable


def test_a_driver_is_submitted_watched_and_stopped(
    launcher: RayLauncher, dashboard: Dashboard, launch: LaunchConfig
) -> None:
    launcher.launch(launch)
    job = dashboard.jobs["exp-k3v9q2mz-a2"]
    assert job["entrypoint"] == f"exec '/opt/a b/python' -m workers.driver '{launch.storage}' 2".replace(
        "it's", "it'\"'\"'s"
    )
    assert not job.get("runtime_env"), "with one, Ray would start fresh processes where warm ones wait"
    assert "secret" not in json.dumps(job)
    assert launcher.status(launch.attempt_id) is JobStatus.RUNNING
    assert launcher.logs(launch.attempt_id) == "größer\n"
    launcher.stop(launch.attempt_id)
    assert dashboard.stopped == [launch.attempt_id]
    with pytest.raises(ClusterUnreachableError, match="submitted before"):
        launcher.launch(launch)


def test_the_nodes_on_which_trials_run(launcher: RayLauncher, dashboard: Dashboard) -> None:
    assert launcher.trial_nodes() == {"exp-k3v9q2mz-a2": ["a", "b"]}
    dashboard.instead["/api/v0/placement_groups"] = 200, {"data": {"result": {"result": [{"state": "CREATED"}]}}}
    with pytest.raises(ClusterUnreachableError, match="where trials run"):
        launcher.trial_nodes()


def test_what_is_reserved_for_a_driver_and_where_it_runs(tmp_path: Path) -> None:
    def asked(**settings: Any) -> dict[str, Any]:
        return reserved(Settings(home=tmp_path, **settings))

    head = {"node:__internal_head__": 0.001}
    assert asked() == {"entrypoint_memory": 400_000_000, "entrypoint_resources": head}
    assert asked(driver_memory_mb=0, driver_cpus=0.5) == {"entrypoint_num_cpus": 0.5, "entrypoint_resources": head}
    assert asked(driver_labels="role=driver, zone = a") == {
        "entrypoint_memory": 400_000_000,
        "entrypoint_label_selector": {"role": "driver", "zone": "a"},
    }
    with pytest.raises(
        ValidationError, match=r"must be labels such as role=driver, separated by commas \(got 'role'\)"
    ):
        asked(driver_labels="role")


@pytest.mark.parametrize("document", [{"status": "HIBERNATING"}, {"submission_id": "x"}])
def test_an_unknown_status_counts_as_alive(
    launcher: RayLauncher, dashboard: Dashboard, document: dict[str, Any]
) -> None:
    dashboard.instead["/api/jobs/exp-x-a1"] = 200, document
    assert launcher.status("exp-x-a1") in ALIVE


def test_living_nodes_are_listed_by_name(launcher: RayLauncher) -> None:
    nodes = Node("10.0.0.1", 2, id="a"), Node("10.0.0.2", 8, 2, id="b"), Node("10.0.0.4", 0, id="d")
    assert launcher.cluster() == Cluster(nodes)


def test_the_nodes_that_ray_can_add_are_part_of_the_cluster(settings: Settings, dashboard: Dashboard) -> None:
    given = {"ray_dashboard_url": dashboard.address, "largest_node": "cpus=8,gpus=4,label:zone=a"}
    cluster = RayLauncher(Settings(**{**settings.model_dump(), **given})).cluster()
    assert cluster.possible == (Node("a new one", 8, 4, labels={"zone": "a"}),)
    assert cluster.kinds == cluster.nodes + cluster.possible


def test_living_raylets_are_listed(launcher: RayLauncher, dashboard: Dashboard) -> None:
    raylets = [{"nodeManagerAddress": f"10.0.0.{n}", "nodeManagerPort": 70 + n, "state": "ALIVE"} for n in (1, 2)]
    raylets[1]["state"] = "DEAD"
    dashboard.instead["/nodes"] = 200, {"data": {"summary": [{"raylet": raylet} for raylet in raylets]}}
    assert launcher.raylets() == ["10.0.0.1:71"]


@pytest.mark.parametrize(
    ("path", "answer", "ask"),
    [
        ("/api/jobs/exp-x-a1/logs", (500, "UnicodeDecodeError"), lambda ray: ray.logs("exp-x-a1")),
        ("/api/jobs/exp-x-a1", (200, "no JSON"), lambda ray: ray.status("exp-x-a1")),
        ("/api/v0/nodes", (200, {"data": {"result": None}}), lambda ray: ray.cluster()),
        ("/api/v0/nodes", (401, "no token"), lambda ray: ray.cluster()),
        ("/api/version", (502, "a proxy"), lambda ray: ray.cluster()),
    ],
)
def test_an_invalid_answer_counts_as_unreachable_and_the_next_request_works(
    launcher: RayLauncher,
    dashboard: Dashboard,
    path: str,
    answer: tuple[int, Any],
    ask: Callable[[RayLauncher], Any],
) -> None:
    dashboard.instead[path] = answer
    with pytest.raises(ClusterUnreachableError):
        ask(launcher)
    dashboard.instead.clear()
    ask(launcher)


def test_a_refused_connection_and_a_silent_server_are_both_unreachable(settings: Settings) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        for listening in (False, True):
            if listening:
                silent.listen()  # takes the connection and says nothing
            given = {"ray_dashboard_url": f"http://127.0.0.1:{port}", "ray_timeout_s": 0.3}
            with pytest.raises(ClusterUnreachableError, match=f"Ray at http://127.0.0.1:{port} does not answer"):
                RayLauncher(Settings(**{**settings.model_dump(), **given})).cluster()


def test_a_missing_token_is_reported(tmp_path: Path) -> None:
    ask = """
from service.adapters.launcher import ClusterUnreachableError
from service.adapters.launchers.ray_jobs import RayLauncher
from service.settings import Settings
try:
    RayLauncher(Settings()).cluster()
except ClusterUnreachableError as away:
    print(away)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    said = subprocess.run(
        [sys.executable, "-c", ask],
        env=environment | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"},
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert said.startswith("Ray at http://127.0.0.1:8265 does not answer: ")
    assert "token" in said.partition("answer: ")[2].lower()
    assert said.count("\n") == 1


def test_neither_tune_nor_torch_nor_mlflow_is_ever_imported() -> None:
    """The import contract sees no submodules of Ray, nor what Ray imports in its turn."""
    program = """if True:
        import sys
        import service.app
        from service.adapters.launchers.ray_jobs import RayLauncher
        from service.settings import Settings
        RayLauncher(Settings()).preload()
        assert "ray.job_submission" in sys.modules
        print(*sorted({"ray.tune", "ray.train", "ray.air", "torch", "mlflow", "optuna"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
