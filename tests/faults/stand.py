"""Stand: PostgreSQL, MLflow, Ray and the service as separate processes that tests kill and start again.

Owns the processes, their ports and folder, and the proxy through which drivers reach the service. MLflow, Ray and
the service get the commands and the environment of `rung up` (service/stack), except that the database is PostgreSQL
and the times are short. It must not know experiments.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import httpx
import psycopg

from service import stack
from service.client import Client
from service.stack import children
from service.stack.components import RAY_PORTS, sees_a_node, sees_all
from tests.faults import place
from tests.faults.proxy import Proxy
from tests.support import postgres
from tests.support.processes import command, is_alive, pids

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
START_S = 240.0
#: Below the range of outgoing connections, so that the port of a stopped part stays free until it starts again.
PORTS = range(20_000, 32_000)
CPUS = 4  # slots for two experiments that run two trials each, on any machine
PARTS = ("postgres", "mlflow", "ray", "service", "second")
SHORT_TIMES = {
    "RUNG_HEARTBEAT_S": "0.5",
    "RUNG_RECONCILE_S": "0.5",
    "RUNG_LEASE_S": "4",
    "RUNG_DRIVER_LOST_S": "20",
    "RUNG_DRIVER_START_S": "120",
    "RUNG_STOP_GRACE_S": "60",
    "RUNG_RETRY_BACKOFF_S": "0.5",
    "RUNG_RAY_TIMEOUT_S": "10",
    "RUNG_MLFLOW_TIMEOUT_S": "5",
}


class Stand:
    """`start` and `kill` take names of `PARTS`; `pids` finds processes by their command line.

    `settings` are settings of the service: the variables' names without `RUNG_`. The proxy forwards to the first
    replica of the service that accepts the connection.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        ports = list(free_ports(10))
        options = stack.Options(
            home=self.home,
            port=ports[0],
            mlflow_port=ports[1],
            ray_dashboard_port=ports[2],
            num_cpus=CPUS,
            data_root=self.home,  # holds no data set
        )
        with mock.patch.dict(os.environ, RUNG_AUTH="open"):  # the faults are not about permissions
            self._stack = stack.Stack(options)
        self._stack.ray_ports = dict(zip(RAY_PORTS, ports[3:7], strict=True))
        (folder / "pg").mkdir(mode=0o700)
        self._postgres = postgres.installed(folder / "pg", ports[7])
        self.mlflow_url, self.url = self._stack.addresses.mlflow, self._stack.addresses.service
        self.second_url = f"http://127.0.0.1:{ports[8]}"
        self.proxy = Proxy(ports[9], (ports[0], ports[8]))
        self.rung = Client(self.url)
        self.plugins = folder / "plugins"
        self.plugins.mkdir()
        self.storages = [self.home / "storage"]
        self._settings = dict(settings)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Stand:
        try:
            self._postgres.initialize()
            self.start("postgres")
            for database in ("rung", "mlflow"):
                with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
                    connection.execute(f"CREATE DATABASE {database}")
            self.start("mlflow", "ray", "service")
            self.wait_until_ready()
        except BaseException:
            self.shut_down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.shut_down()

    def start(self, *names: str, **settings: str) -> None:
        """Start the parts that do not run, all at the same time, and wait until each is ready."""
        for name in names:
            if not self.is_running(name):
                self._spawn(name, settings)
        for name in names:
            self.wait_until(functools.partial(self._ready, name, settings), f"{name} is ready", START_S)

    def kill(self, *names: str) -> None:
        """Send SIGKILL to all processes of the parts at once, and wait until they are gone."""
        doomed: list[int] = []
        for name in names:
            doomed += self._members(name)
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._reap(names)
        self.wait_until(lambda: not any(map(is_alive, doomed)), f"{names} are gone")

    @contextlib.contextmanager
    def node(
        self,
        name: str,
        cpus: int,
        *,
        labels: Mapping[str, str] | None = None,
        hidden: Path | None = None,
        paths: Sequence[Path] = (),
    ) -> Iterator[int]:
        """Another node of Ray, and its process, which has a view of the file systems of its own.

        `hidden` is a folder that its processes do not see, `paths` come first among those of their modules.
        """
        parts = self._stack.components()
        address = f"127.0.0.1:{self._stack.ray_ports['port']}"
        node = [address, name, str(cpus), json.dumps(dict(labels or {})), *map(str, free_ports(3))]
        words = [sys.executable, "-m", "tests.faults.ray_node", *node]
        mount = f"mount -t tmpfs none {hidden} && " if hidden else ""
        words = ["unshare", "-m", "sh", "-c", f"{mount}exec {shlex.join(words)}"]
        self.storages[0].mkdir(exist_ok=True)
        path = os.pathsep.join(map(str, [*paths, ROOT, self.plugins]))
        environment = {
            **parts["ray"].environment,
            "RUNG_TEST_STAND": str(self.folder),
            "PYTHONPATH": path,
        }
        with (self.home / "logs" / f"{name}.log").open("ab") as output:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.home,
                start_new_session=True,
                preexec_fn=children._dies_with(os.getpid()),
            )
        try:
            with httpx.Client(base_url=self.url, trust_env=False, timeout=10) as http:
                self.wait_until(
                    lambda: name in http.get("/api/v1/cluster").text, f"the service sees node {name}", START_S
                )
            yield process.pid
        finally:
            for pid in [*children.descendants(process.pid), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait(60)

    def wait_until_ready(self) -> None:
        """Wait until the service reaches the database, Ray and MLflow, and Ray has a node."""
        with httpx.Client(base_url=self.url, trust_env=False, timeout=10) as http:
            self.wait_until(lambda: sees_all(http.get("/readyz")), "the service reaches all other parts", START_S)
            self.wait_until(lambda: sees_a_node(http.get("/api/v1/cluster")), "the service sees a node", START_S)

    def restore(self, **settings: str) -> None:
        """Bring back the initial state, whatever an earlier test left: all parts except the second replica run."""
        if self.is_running("second"):
            self.kill("second")
        self.proxy.mend()
        self.start("postgres")
        self.start("mlflow", "ray", "service", **settings)
        self.wait_until_ready()

    def restart_service(self, **settings: str) -> None:
        """Restart the service with other settings (`LEASE_S="2"`) or environment variables (`LD_PRELOAD=...`)."""
        self.kill("service")
        self.start("service", **settings)

    def is_running(self, name: str) -> bool:
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def log(self, name: str) -> str:
        return (self.home / "logs" / f"{name}.log").read_text(errors="replace")

    def files(self, experiment_id: str) -> Path:
        """The folder of an experiment."""
        return next((root / experiment_id for root in self.storages if (root / experiment_id).exists()), Path("absent"))

    def address(self, experiment_id: str) -> str:
        """The address of an experiment's storage."""
        root = self._settings.get("STORAGE_ROOT")
        return f"{root}/{experiment_id}" if root else str(self.files(experiment_id))

    def dsn(self, database: str) -> str:
        return self._postgres.url(database)

    def query(self, database: str, statement: str, *values: object) -> list[Any]:
        """Rows of a statement on one of the databases `rung` and `mlflow`."""
        with psycopg.connect(self.dsn(database)) as connection:
            return connection.execute(statement, values).fetchall()

    def administer(self, *statements: str) -> None:
        """Execute statements on databases that nobody uses any more; sessions of killed processes may need a moment."""

        def executed(statement: str) -> bool:
            with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
                connection.execute(statement)
            return True

        for statement in statements:
            self.wait_until(functools.partial(executed, statement), statement, 60)

    def pids(self, *marks: str) -> list[int]:
        """Processes of this stand's Ray (drivers and trials too) whose command line contains every mark."""
        return [pid for pid in self._members("ray") if all(mark in command(pid) for mark in marks)]

    def remaining_processes(self) -> dict[int, str]:
        """Process ids and command lines of the running processes that this stand started, directly or indirectly."""
        mark = f"RUNG_TEST_STAND={self.folder}".encode()
        found = {}
        for pid in pids():
            with contextlib.suppress(OSError):
                ours = mark in (Path(f"/proc/{pid}/environ").read_bytes()) or str(self.folder) in command(pid)
                if ours and pid != os.getpid() and is_alive(pid):
                    found[pid] = command(pid)
        return found

    def shut_down(self) -> None:
        """Kill all processes of the stand, and wait until they are gone."""
        self.rung.close()
        self.proxy.close()
        for pid in self.remaining_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.kill(*(name for name in PARTS if self.is_running(name)))
        for pid in self.remaining_processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait_until(lambda: not self.remaining_processes(), "all processes of the stand are gone")

    def wait_until(
        self, condition: Callable[[], T | None], what: str, timeout_s: float = 180.0, look_s: float = 0.05
    ) -> T:
        """Wait until `condition` returns a true value, and return it. Errors of unreachable parts count as false."""
        return place.wait_until(condition, what, timeout_s, look_s, self._tails)

    def _ready(self, name: str, settings: Mapping[str, str]) -> bool:
        if not self.is_running(name):  # Ray exits if its own parts need more than 30 s, as on a loaded machine
            self.kill(name)
            self._spawn(name, settings)
            return False
        match name:
            case "postgres":
                with psycopg.connect(self.dsn("postgres"), connect_timeout=2):
                    return True
            case "mlflow":
                return httpx.get(f"{self.mlflow_url}/health", timeout=2, trust_env=False).status_code == 200
            case "ray":
                version = f"{self._stack.addresses.ray_dashboard}/api/version"
                return httpx.get(version, timeout=2, trust_env=False).status_code in {200, 401}
        url = self.second_url if name == "second" else self.url
        return httpx.get(f"{url}/readyz", timeout=6, trust_env=False).status_code == 200

    def _spawn(self, name: str, settings: Mapping[str, str]) -> None:
        parts = self._stack.components()
        environment = {
            **parts["service"].environment,
            **SHORT_TIMES,
            "RUNG_TEST_STAND": str(self.folder),
            "RUNG_SERVICE_URL": self.proxy.url,
            "RUNG_WARM_WORKERS": "2",
            "RUNG_DATABASE_URL": self.dsn("rung"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(self.plugins)]),
        }
        options: dict[str, Any] = {"cwd": self.home}
        match name:
            case "postgres":
                words, options = self._postgres.foreground(), self._postgres.popen_options()
            case "mlflow":
                words = list(parts["mlflow"].command)
                words[words.index("--backend-store-uri") + 1] = self.dsn("mlflow").replace("://", "+psycopg://")
            case "ray":
                words, environment = parts["ray"].command, {**parts["ray"].environment, **environment}
            case _:
                words = [sys.executable, "-m", "service.app"]
                environment |= {"RUNG_PORT": self.second_url.rpartition(":")[2]} if name == "second" else {}
                for key, value in (self._settings | dict(settings)).items():
                    environment[key if key in FOREIGN_VARIABLES else f"RUNG_{key}"] = value
        log = self.home / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as output:
            self._processes[name] = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=children._dies_with(os.getpid()),
                **options,
            )

    def _members(self, name: str) -> list[int]:
        """The process of a part and its descendants. For Ray, also those whose parents have exited."""
        leader = self._processes[name].pid if self.is_running(name) else None
        found = [] if leader is None else [leader, *children.descendants(leader)]
        if name == "ray":
            others = {
                pid for other in PARTS if other != "ray" and self.is_running(other) for pid in self._members(other)
            }
            found += [pid for pid in self.remaining_processes() if pid not in others and pid not in found]
        return found

    def _reap(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._processes:
                self._processes.pop(name).wait(60)

    def _tails(self) -> str:
        logs = sorted((self.home / "logs").glob("*.log"))
        return "".join(f"\n--- {log.name}\n" + log.read_text(errors="replace")[-1500:] for log in logs)


#: Environment variables of the service that do not start with RUNG_.
FOREIGN_VARIABLES = frozenset(
    {"LD_PRELOAD", "FAKETIME_TIMESTAMP_FILE", "FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC"}
)


@contextlib.contextmanager
def running_stand(**settings: str) -> Iterator[Stand]:
    """A stand in a temporary folder. Other users may enter the folder, because PostgreSQL may run as one of them."""
    folder = Path(tempfile.mkdtemp(prefix="rung-stand-"))
    folder.chmod(0o711)
    try:
        with Stand(folder, settings) as stand:
            yield stand
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> Iterator[int]:
    """Different free ports of the loopback interface."""
    candidates = random.SystemRandom().sample(PORTS, len(PORTS))
    for port in candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
        count -= 1
        if not count:
            return
