"""Sixty hostile clients for two minutes: every heartbeat of three running experiments arrives.

`make test-load` runs it and prints the figures of docs/security.md. The service is a process of its own, the heartbeats
are those of the real driver, and the clients have processes and addresses of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from search_spaces.layout import ExperimentFolder
from search_spaces.protocol import LaunchConfig, Phase
from tests.load.hostile import KINDS
from workers.fence import Fence
from workers.heartbeat import HeartbeatThread

SECONDS = float(os.environ.get("RUNG_TEST_LOAD_S", "120"))
CLIENTS_OF_A_KIND = 10
EXPERIMENTS = "/api/v1/experiments"
START_S = 60
#: What the service answers each kind of clients, beside that it is busy (503).
EXPECTED = {
    "bad_heartbeats": {"401", "403"},
    "unfinished_bodies": {"408"},
    "expensive_specs": {"422"},
    "idle_connections": {"closed"},
    "submissions": {"201"},
    "bursts": {"burst"},
}


class CountingHeartbeats(HeartbeatThread):
    """The driver's heartbeats, and what became of each."""

    def __init__(self, launch: LaunchConfig) -> None:
        super().__init__(launch, Fence())
        self.phase = Phase.SEARCHING
        self.arrived: list[bool] = []
        self.seconds: list[float] = []

    def send(self) -> bool:
        begin = time.monotonic()
        arrived = super().send()
        self.arrived.append(arrived)
        self.seconds.append(time.monotonic() - begin)
        return arrived


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "tests.load.serve", str(tmp_path)]
    with (
        (tmp_path / "service.log").open("w") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        assert process.stdin is not None
        process.stdin.close()


def running_experiments(client: httpx.Client, home: Path) -> list[LaunchConfig]:
    """The launch files of three experiments that were started."""
    spec = {"name": "main", "resources": {"gpus_per_trial": 0}, "searcher": {"kind": "random", "num_samples": 1}}
    ids = [client.post(EXPERIMENTS, json=spec).json()["id"] for _ in range(3)]
    files = [ExperimentFolder(home / "storage" / one).launch_config(1) for one in ids]
    deadline = time.monotonic() + START_S
    while not all(map(Path.exists, files)):
        assert time.monotonic() < deadline, "the experiments did not start"
        time.sleep(0.1)
    return [LaunchConfig.model_validate_json(file.read_text()) for file in files]


def test_every_heartbeat_arrives_under_the_requests_of_sixty_hostile_clients(
    service: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    process, url = service
    with httpx.Client(base_url=url, trust_env=False, timeout=START_S) as client:
        launches = running_experiments(client, tmp_path)
        drivers = [CountingHeartbeats(launch.model_copy(update={"service_url": url})) for launch in launches]
        for driver in drivers:
            driver.start()
        command = [sys.executable, "-m", "tests.load.hostile", url]
        hostile = {
            kind: subprocess.Popen(
                [*command, kind, str(CLIENTS_OF_A_KIND), str(SECONDS)], stdout=subprocess.PIPE, text=True
            )
            for kind in KINDS
        }
        answers = {kind: json.loads(clients.communicate(timeout=SECONDS + 240)[0]) for kind, clients in hostile.items()}
        for driver in drivers:
            driver.close()
        seconds = sorted(second for driver in drivers for second in driver.seconds)
        views = [client.get(f"{EXPERIMENTS}/{launch.experiment_id}").json() for launch in launches]
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    ticks = [int(field) for field in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]]
    print(
        f"\n{len(seconds)} heartbeats in {SECONDS:g} s, median {seconds[len(seconds) // 2]:.3f} s, "
        f"slowest {seconds[-1]:.2f} s; service: {int(peak) // 1024} MiB at most, "
        f"{sum(ticks) / os.sysconf('SC_CLK_TCK'):.0f} s CPU; load of the machine {os.getloadavg()[0]:.1f}"
    )
    for kind, counted in answers.items():
        print(f"{kind}: {counted}")
    for kind, counted in answers.items():
        expected = sum(counted.get(answer, 0) for answer in EXPECTED[kind])
        errors = sum(count for answer, count in counted.items() if answer.endswith("Error"))
        assert expected >= CLIENTS_OF_A_KIND, f"{kind} did not do what it is for"
        assert errors <= expected / 10, f"{kind} mostly failed"
    assert all(arrived for driver in drivers for arrived in driver.arrived)
    assert all(len(driver.arrived) > SECONDS / launches[0].heartbeat_s / 4 for driver in drivers)
    assert [(view["state"], view["attempt"]) for view in views] == [("RUNNING", 1)] * 3
    assert int(peak) < 1024 * 1024
