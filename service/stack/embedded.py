"""Embedded: Ray, MLflow and the service as the children of one foreground process, ready together and gone together.

All listen on loopback alone, but for the service where another host is given; Ray asks for a token kept in the
home folder. It must not know experiments.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from search_spaces.protocol import API_PREFIX
from service.contract.errors import InternalError
from service.stack import home as folder
from service.stack.children import Children
from service.stack.home import Addresses, StackError
from service.stack.ports import LOOPBACK, Ports, in_url

START_S = 90.0
#: Settings of the caller's that a stack takes over; where things are and who answers is its own to say.
FORWARDED_SETTINGS = frozenset(
    f"RUNG_{name}"
    for name in (
        "DATA_ROOT", "WARM_WORKERS", "ALLOWED_HOSTS", "HEARTBEAT_S", "DRIVER_LOST_S", "DRIVER_START_S", "STOP_GRACE_S",
        "MAX_ATTEMPTS", "RETRY_BACKOFF_S", "RECONCILE_S", "LEASE_S", "RAY_TIMEOUT_S", "RAY_SUBMIT_TIMEOUT_S",
        "MLFLOW_TIMEOUT_S", "KEEP_FILES_DAYS", "MAX_BODY_BYTES", "MAX_HEARTBEAT_BYTES",
    )
)  # fmt: skip
#: How a driver was started by its Ray job.
DRIVER = ("-m", "workers.driver")
#: Ports of Ray's that are the same on every start unless given: a second Ray on the machine would meet them.
RAY_PORTS = ("port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")


@dataclass(frozen=True)
class Options:
    """Ports are free ones unless given; CPUs and GPUs are the machine's unless given."""

    home: Path
    host: str = LOOPBACK
    port: int | None = None
    mlflow_port: int | None = None
    ray_dashboard_port: int | None = None
    num_cpus: int | None = None
    num_gpus: int | None = None
    data_root: Path | None = None


def up(
    home: Path,
    host: str = LOOPBACK,
    port: int | None = None,
    mlflow_port: int | None = None,
    ray_dashboard_port: int | None = None,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    data_root: Path | None = None,
    as_json: bool = False,
) -> int:
    """Run the stack in the foreground until Ctrl-C or SIGTERM. Gives the exit status; errors are printed.

    As JSON its addresses are one object, once it is up, and an error is a problem document.
    """
    options = Options(home, host, port, mlflow_port, ray_dashboard_port, num_cpus, num_gpus, data_root)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        with running(options, ended) as stack:
            at = stack.addresses
            if as_json:
                print(json.dumps(asdict(at)), flush=True)
                stack.watch(ended)
                return 0
            print(f"rung is up, its home is {options.home}", flush=True)
            print(f"  API docs   {at.service}/docs\n  MLflow     {at.mlflow}\n  Ctrl-C stops everything", flush=True)
            stack.watch(ended)
            print("stopping ...", flush=True)
    except StackError as error:
        said = json.dumps(InternalError(str(error)).document()) if as_json else f"rung up: {error}"
        print(said, file=sys.stderr, flush=True)
        return 1
    return 0


@contextlib.contextmanager
def running(options: Options, interrupted: threading.Event | None = None) -> Iterator[Stack]:
    """A stack that is ready inside the block and gone after it. Raises StackError when it cannot start."""
    interrupted = interrupted or threading.Event()
    with folder.locked(options.home), contextlib.ExitStack() as cleanup:
        stack = Stack(options)
        cleanup.callback(stack.stop)
        stack.start(interrupted)
        yield stack


class Stack:
    """The three children. `start`, `watch`, `stop`, in this order."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.home = options.home.absolute()
        self._children = Children(self.home)
        self._cpus = options.num_cpus or os.cpu_count() or 1
        ports = Ports()
        self._ray_ports = {option: ports.free() for option in RAY_PORTS}
        service, mlflow, ray = (
            ports.take(option, given, host)
            for option, given, host in (
                ("port", options.port, options.host),
                ("mlflow-port", options.mlflow_port, LOOPBACK),
                ("ray-dashboard-port", options.ray_dashboard_port, LOOPBACK),
            )
        )
        ports.close()
        if options.data_root and not options.data_root.is_dir():
            raise StackError(f"--data-root: an existing folder required, got {options.data_root}")
        data_root = options.data_root or os.environ.get("RUNG_DATA_ROOT") or self.home / "data"
        self.addresses = Addresses(
            pid=os.getpid(),
            service=f"http://{in_url(options.host)}:{service}",
            mlflow=f"http://{LOOPBACK}:{mlflow}",
            ray_dashboard=f"http://{LOOPBACK}:{ray}",
            data_root=str(Path(data_root).absolute()),
        )

    def start(self, interrupted: threading.Event) -> None:
        """Start all three side by side and wait until each answers, and the service sees the others and a node."""
        environment = self._environment()
        self._children.spawn("ray", self._ray_command(), environment | _ray_settings())
        folder.enable_wal(self.home / "mlflow.db")
        self._children.spawn("mlflow", self._mlflow_command(), environment)
        self._children.spawn("service", [sys.executable, "-m", "service.app"], environment)
        deadline = time.monotonic() + START_S
        for name, address, ready in (
            # Ray answers 401 to one without its token: it is there.
            ("ray", f"{self.addresses.ray_dashboard}/api/version", lambda answer: answer.status_code in {200, 401}),
            ("mlflow", f"{self.addresses.mlflow}/health", lambda answer: answer.status_code == 200),
            ("service", f"{self.addresses.service}/readyz", sees_all),
            ("service", f"{self.addresses.service}{API_PREFIX}/cluster", sees_a_node),
        ):
            self._await(name, address, ready, deadline, interrupted)
        folder.write_addresses(self.home, self.addresses)

    def watch(self, ended: threading.Event) -> None:
        """Return when `ended` is set. Raises StackError when a child dies before."""
        while not ended.wait(0.5):
            self._children.check()

    def stop(self) -> None:
        """End all children and all that they started, the drivers before the Ray that they stand on.

        A driver that saw Ray go down would count a restart of each of its trials; one that was killed counts none.
        It is one lost attempt of its experiment all the same: the next Ray does not know it.
        """
        folder.remove_addresses(self.home)
        self._children.kill_descendants("ray", DRIVER)
        self._children.stop()

    def _await(
        self,
        name: str,
        address: str,
        ready: Callable[[httpx.Response], bool],
        deadline: float,
        interrupted: threading.Event,
    ) -> None:
        answer = "nothing"
        while time.monotonic() < deadline:
            self._children.check()
            if interrupted.is_set():
                raise StackError("interrupted while starting")
            try:
                response = httpx.get(address, timeout=2, trust_env=False)
                if ready(response):
                    return
                answer = f"{response.status_code} {response.text[:300]}"
            except httpx.HTTPError as error:
                answer = repr(error)
            interrupted.wait(0.1)
        raise StackError(f"{name} was not ready within {START_S:g} s; last answer: {answer}{self._children.tail(name)}")

    def _environment(self) -> dict[str, str]:
        """Variables of all children. Nothing of another Ray, MLflow or Rung leaks in, except `FORWARDED_SETTINGS`."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("RUNG_", "RAY_", "MLFLOW_"))
        }
        settings = {name: value for name, value in os.environ.items() if name in FORWARDED_SETTINGS}
        at = self.addresses
        return (
            inherited
            | settings
            | {
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
                **dict.fromkeys(("NO_PROXY", "no_proxy"), _without_proxy(os.environ, self._options.host)),
                "PYTHONUNBUFFERED": "1",
                "TZ": "UTC",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": folder.ray_token(self.home),
                "RUNG_HOME": str(self.home),
                "RUNG_HOST": self._options.host,
                "RUNG_PORT": at.service.rpartition(":")[2],
                "RUNG_RAY_DASHBOARD_URL": at.ray_dashboard,
                "RUNG_MLFLOW_TRACKING_URI": at.mlflow,
                "RUNG_DATA_ROOT": at.data_root,
                "RUNG_WARM_WORKERS": settings.get("RUNG_WARM_WORKERS", str(min(4, self._cpus) + 1)),
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a process for jobs that nobody here submits
            }
        )

    def _ray_command(self) -> list[str]:
        dashboard = self.addresses.ray_dashboard.rpartition(":")[2]
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats",
            f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard}",
            f"--temp-dir={folder.ray_folder(self.home)}",
            *(f"--{option}={port}" for option, port in self._ray_ports.items()),
        ]  # fmt: skip
        for option, value in (("num-cpus", self._options.num_cpus), ("num-gpus", self._options.num_gpus)):
            command += [f"--{option}={value}"] if value is not None else []
        return command

    def _mlflow_command(self) -> list[str]:
        return [
            sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--workers", "1",
            "--port", self.addresses.mlflow.rpartition(":")[2],
            "--backend-store-uri", f"sqlite:///{self.home / 'mlflow.db'}",
            "--artifacts-destination", str(self.home / "artifacts"),
        ]  # fmt: skip


def sees_all(readyz: httpx.Response) -> bool:
    """Whether the service says that its database, Ray and MLflow answer; all three are ours to start."""
    if readyz.status_code != 200:
        return False
    said = readyz.json()
    return bool(said["ready"] and said["ray"]["ok"] and said["mlflow"]["ok"])


def sees_a_node(cluster: httpx.Response) -> bool:
    """Whether the service saw a living node."""
    return cluster.status_code == 200 and bool(cluster.json()["nodes"])


def _without_proxy(environment: Mapping[str, str], host: str) -> str:
    """What is reached without a proxy: what was, and this machine."""
    before = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return ",".join(dict.fromkeys(filter(None, [*before.split(","), LOOPBACK, "localhost", host])))


def _ray_settings() -> dict[str, str]:
    return {
        # The only switch that makes a Ray head listen on loopback alone; on Linux it is on by default.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": "60",
        "PL_DISABLE_FORK": "1",  # Tune wants it in each trial's process
        "RAY_preload_python_modules": "workers.preload",
        "RAY_prestart_worker_first_driver": "0",  # they would compete with the warm workers' imports
    }
