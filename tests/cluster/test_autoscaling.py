"""Ray's own autoscaler adds workers for what waits, and removes them when nothing does. Its nodes are processes of this
machine (Ray's provider of fake nodes); everything else is as `rung up` starts it.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from search_spaces.storage.folder import FolderStorage
from service import stack
from service.client import Client
from service.stack.components import Component
from service.stack.home import ray_token

HEAD_ID = "f" * 51 + "00000"  # the provider takes this for the head, and counts upwards from it
WORKERS, CPUS = 2, 2
IDLE_MINUTES = 1.0  # longer than a driver needs to start on a busy machine
TIMEOUT_S = 420.0
SETTINGS = {
    "RUNG_LARGEST_NODE": f"cpus={CPUS}",
    "RUNG_WARM_WORKERS": "0",
    "RUNG_HEARTBEAT_S": "0.5",
    "RUNG_RECONCILE_S": "0.5",
    "RUNG_AUTH": "open",
}
SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "search_space": {"model": {"kind": "cnn", "width": 16, "depth": 2}, "batch_size": 32},
    "early_stopping": "none",
    "resources": {"cpus_per_trial": CPUS},
}

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


class AutoscalingStack(stack.Stack):
    """A stack whose Ray begins with a head without CPUs."""

    def components(self) -> dict[str, Component]:
        parts = super().components()
        ray, config = parts["ray"], self.home / "autoscaling.json"
        config.write_text(json.dumps(autoscaling(f"127.0.0.1:{self.ray_ports['port']}")))
        more = {
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        }
        command = [*ray.command, f"--autoscaling-config={config}"]
        return parts | {"ray": dataclasses.replace(ray, command=command, environment={**ray.environment, **more})}


def autoscaling(gcs_address: str) -> dict[str, Any]:
    """What `ray up` would be given."""
    provider = {
        "type": "external",  # Ray's package lacks the defaults of `fake_multinode`
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_internal_ips": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "gcs_address": gcs_address,
        "head_node_id": HEAD_ID,
    }
    kinds = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": CPUS}, "node_config": {}, "min_workers": 0, "max_workers": WORKERS},
    }
    nothing = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "test",
        "max_workers": WORKERS,
        "provider": provider,
        "available_node_types": kinds,
        "head_node_type": "ray.head.default",
        "upscaling_speed": 100,
        "idle_timeout_minutes": IDLE_MINUTES,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{name}_commands": [] for name in nothing},
    }


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stack.Stack]:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in SETTINGS.items():
            environment.setenv(name, value)
        running = AutoscalingStack(stack.Options(home=tmp_path_factory.mktemp("home"), num_cpus=0))
        try:
            running.start(threading.Event())
            yield running
        finally:
            running.stop()


@pytest.fixture(scope="module")
def client(up: stack.Stack) -> Iterator[Client]:
    with Client(up.addresses.service) as rung:
        yield rung


def test_from_no_worker_to_two_and_back(up: stack.Stack, client: Client) -> None:
    assert workers(up) == []
    searcher = {"kind": "random", "num_samples": 4}
    one = client.submit(SPEC | {"name": "grows", "searcher": searcher, "max_epochs": 3}).id
    waiting = "waiting for a node with 2 CPUs (requested from Ray)"
    wait_until(lambda: client.get(one).reason == waiting, lambda: client.get(one).reason)
    assert [(entry.waits_for, entry.reason) for entry in client.queue().items] == [("node", waiting)]
    wait_until(lambda: len(workers(up)) == WORKERS, lambda: "two workers")
    view = client.wait(one, timeout_s=TIMEOUT_S)
    assert (view.state, [attempt.state for attempt in view.attempts]) == ("COMPLETED", ["ENDED"]), view.reason
    assert trained(up.home, one) == [(trial, epoch) for trial in range(4) for epoch in (1, 2, 3)]
    wait_until(lambda: workers(up) == [], lambda: "the workers are removed again")


def test_trials_leave_a_node_that_is_drained(up: stack.Stack, client: Client) -> None:
    searcher = {"kind": "random", "num_samples": 1}
    one = client.submit(SPEC | {"name": "leaves", "searcher": searcher, "max_epochs": 60}).id
    wait_until(lambda: any(trial.epoch >= 2 for trial in client.trials(one)), lambda: client.get(one).reason)
    [node] = workers(up)
    drain(up, node)
    wait_until(lambda: "ends soon" in client.get(one).reason, lambda: client.get(one).reason)
    view = client.wait(one, timeout_s=TIMEOUT_S)
    [trial] = client.trials(one)
    assert (view.state, trial.state, trial.restarts) == ("COMPLETED", "COMPLETED", 0), view.reason
    assert trained(up.home, one) == [(0, epoch) for epoch in range(1, 61)]


def workers(up: stack.Stack) -> list[str]:
    """Ray's ids of the living nodes beside the head."""
    url, token = f"{up.addresses.ray_dashboard}/api/v0/nodes?limit=100", ray_token(up.home)
    answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False)
    nodes = answer.raise_for_status().json()["data"]["result"]["result"]
    return [one["node_id"] for one in nodes if one["state"] == "ALIVE" and not one["is_head_node"]]


def drain(up: stack.Stack, node: str) -> None:
    """Announce the end of a node, as for a spot machine that is taken away."""
    words = [str(Path(sys.executable).with_name("ray")), "drain-node", "--node-id", node, "--reason-message", "spot"]
    words += ["--address", f"127.0.0.1:{up.ray_ports['port']}", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    environment = up.components()["ray"].environment
    subprocess.run([*words, "--deadline-remaining-seconds", "300"], env=dict(environment), check=True, timeout=120)


def trained(home: Path, experiment: str) -> list[tuple[int, int]]:
    """The epochs that the journal has."""
    entries = FolderStorage(home / "storage" / experiment).journal.entries()
    return sorted((one["trial"], one["epoch"]) for one in entries if one["event"] == "epoch")


def wait_until(is_so: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline, f"timeout: {what()}"
        time.sleep(0.2)
