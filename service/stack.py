"""Stack: the embedded Ray, MLflow and service of `rung up`, as three children of one foreground process.

Owns their start, their addresses (`stack.json` in the home folder), the watch over them and their end. All
listen on loopback alone; Ray asks for a token kept in the home folder. It must not know experiments.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

START_S = 90.0
STOP_S = 15.0
LOOPBACK = "127.0.0.1"
#: Settings of the caller's that a stack takes over; where things are and who answers is its own to say.
KEPT = frozenset(
    f"RUNG_{name}"
    for name in (
        "DATA_ROOT", "WARM_WORKERS", "ALLOWED_HOSTS", "HEARTBEAT_S", "DRIVER_LOST_S", "DRIVER_START_S", "STOP_GRACE_S",
        "MAX_ATTEMPTS", "RETRY_BACKOFF_S", "RECONCILE_S", "LEASE_S", "RAY_TIMEOUT_S", "RAY_SUBMIT_TIMEOUT_S",
        "MLFLOW_TIMEOUT_S", "MAX_BODY_BYTES", "MAX_HEARTBEAT_BYTES",
    )
)  # fmt: skip
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent dies
#: Ports of Ray's that are the same on every start unless given: a second Ray on the machine would meet them.
RAY_PORTS = ("port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")


class StackError(Exception):
    """The stack could not start, or a part of it died. The message says which and what its log says."""


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


@dataclass(frozen=True)
class Addresses:
    """What `stack.json` says while a stack runs."""

    pid: int
    service: str
    mlflow: str
    ray_dashboard: str


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


def up(
    home: Path,
    host: str = LOOPBACK,
    port: int | None = None,
    mlflow_port: int | None = None,
    ray_dashboard_port: int | None = None,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    data_root: Path | None = None,
) -> int:
    """Run the stack in the foreground until Ctrl-C or SIGTERM. Gives the exit status; errors are printed."""
    options = Options(home, host, port, mlflow_port, ray_dashboard_port, num_cpus, num_gpus, data_root)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        with running(options, ended) as stack:
            at = stack.addresses
            print(f"rung is up, its home is {options.home}", flush=True)
            print(f"  API docs   {at.service}/docs\n  MLflow     {at.mlflow}\n  Ctrl-C stops everything", flush=True)
            stack.watch(ended)
            print("stopping ...", flush=True)
    except StackError as error:
        print(f"rung up: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


@contextlib.contextmanager
def running(options: Options, interrupted: threading.Event | None = None) -> Iterator[Stack]:
    """A stack that is ready inside the block and gone after it. Raises StackError when it cannot start."""
    interrupted = interrupted or threading.Event()
    options.home.mkdir(parents=True, exist_ok=True)
    options.home.chmod(0o700)  # the token, the database and the journals are nobody else's
    with _only_one(options.home), contextlib.ExitStack() as cleanup:
        stack = Stack(options)
        cleanup.callback(stack.stop)
        stack.start(interrupted)
        yield stack


class Stack:
    """The three children. `start`, `watch`, `stop`, in this order."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.home = options.home.absolute()
        self._children: list[_Child] = []
        self._cpus = options.num_cpus or os.cpu_count() or 1
        ports = _Ports()
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
        self.addresses = Addresses(
            os.getpid(), f"http://{options.host}:{service}", f"http://{LOOPBACK}:{mlflow}", f"http://{LOOPBACK}:{ray}"
        )

    def start(self, interrupted: threading.Event) -> None:
        """Start all three side by side and wait until each answers, and the service sees the others and a node."""
        environment = self._environment()
        self._spawn("ray", self._ray_command(), environment | _ray_settings())
        self._spawn("mlflow", self._mlflow_command(), environment)
        self._spawn("service", [sys.executable, "-m", "service.app"], environment)
        deadline = time.monotonic() + START_S
        for name, address, ready in (
            # Ray answers 401 to one without its token: it is there.
            ("ray", f"{self.addresses.ray_dashboard}/api/version", lambda answer: answer.status_code in {200, 401}),
            ("mlflow", f"{self.addresses.mlflow}/health", lambda answer: answer.status_code == 200),
            ("service", f"{self.addresses.service}/readyz", sees_all),
            ("service", f"{self.addresses.service}/api/v1/cluster", sees_a_node),
        ):
            self._await(name, address, ready, deadline, interrupted)
        _write_whole(self.home / "stack.json", json.dumps(asdict(self.addresses), indent=2))

    def watch(self, ended: threading.Event) -> None:
        """Return when `ended` is set. Raises StackError when a child dies before."""
        while not ended.wait(0.5):
            self._check_children()

    def stop(self) -> None:
        """End all children and all that they started."""
        (self.home / "stack.json").unlink(missing_ok=True)
        for child in reversed(self._children):
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + STOP_S
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.1, deadline - time.monotonic()))
            _end_session(child.process.pid)
            child.process.wait()
        self._children.clear()

    def _spawn(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        log = self.home / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=self.home,
                start_new_session=True,
                preexec_fn=_dies_with(os.getpid()),
            )
        self._children.append(_Child(name, process, log))

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
            self._check_children()
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
        raise StackError(f"{name} was not ready within {START_S:g} s; last answer: {answer}{self._tail(name)}")

    def _check_children(self) -> None:
        for child in self._children:
            status = child.process.poll()
            if status is not None:
                raise StackError(f"{child.name} died with exit status {status}{self._tail(child.name)}")

    def _tail(self, name: str) -> str:
        log = next(child.log for child in self._children if child.name == name)
        lines = log.read_text(errors="replace").splitlines()[-15:]
        return "".join(f"\n  {name}| {line}" for line in lines) + f"\n(the whole log: {log})"

    def _environment(self) -> dict[str, str]:
        """Variables of all children. Nothing of another Ray, MLflow or Rung leaks in, but what is in `KEPT`."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("RUNG_", "RAY_", "MLFLOW_"))
        }
        settings = {name: value for name, value in os.environ.items() if name in KEPT}
        at = self.addresses
        data_root = self._options.data_root or settings.get("RUNG_DATA_ROOT") or self.home / "data"
        return (
            inherited
            | settings
            | {
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
                **dict.fromkeys(("NO_PROXY", "no_proxy"), _without_proxy(os.environ)),
                "PYTHONUNBUFFERED": "1",
                "TZ": "UTC",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": _token(self.home / "ray_token"),
                "RUNG_HOME": str(self.home),
                "RUNG_HOST": self._options.host,
                "RUNG_PORT": at.service.rpartition(":")[2],
                "RUNG_RAY_DASHBOARD_URL": at.ray_dashboard,
                "RUNG_MLFLOW_TRACKING_URI": at.mlflow,
                "RUNG_DATA_ROOT": str(Path(data_root).absolute()),
                "RUNG_WARM_WORKERS": settings.get("RUNG_WARM_WORKERS", str(min(4, self._cpus) + 1)),
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a process for jobs that nobody here submits
            }
        )

    def _ray_command(self) -> list[str]:
        dashboard = self.addresses.ray_dashboard.rpartition(":")[2]
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats",
            f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard}", f"--temp-dir={_ray_folder(self.home)}",
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


class _Ports:
    """Ports that are free now; held open until `close`, so that no two answers are the same."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def free(self) -> int:
        return self._bind("", 0, LOOPBACK)

    def take(self, option: str, given: int | None, host: str) -> int:
        """The given port of the host, or a free one. Raises StackError where it cannot be had."""
        return self._bind(option, given or 0, host)

    def close(self) -> None:
        for held in self._held:
            held.close()

    def _bind(self, option: str, port: int, host: str) -> int:
        held = socket.socket()
        self._held.append(held)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((host, port))
        except OSError as error:
            self.close()
            asked = f"--{option} {port}" if port else "a free port"
            raise StackError(f"{asked} of {host} cannot be used: {error.strerror}") from error
        return int(held.getsockname()[1])


@contextlib.contextmanager
def _only_one(home: Path) -> Iterator[None]:
    with (home / "stack.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"another `rung up` runs on {home}{_where(home)}") from None
        yield


def _where(home: Path) -> str:
    try:
        at = json.loads((home / "stack.json").read_text())
    except (OSError, ValueError):
        return ""
    return f": process {at['pid']}, {at['service']}"


def _without_proxy(environment: Mapping[str, str]) -> str:
    """What is reached without a proxy: what was, and this machine."""
    before = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    return ",".join(dict.fromkeys(filter(None, [*before.split(","), LOOPBACK, "localhost"])))


def _dies_with(parent: int) -> Callable[[], None] | None:
    """For a child to run before its command: a SIGTERM to it when `parent` is killed. None where that is not Linux.

    The signal follows the thread that forked, which is the one that runs the stack to its end.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up before the fork: nothing is imported after it

    def bind() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)

    return bind


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


def _ray_folder(home: Path) -> Path:
    """Under the home, or in the system's temporary folder where the path of Ray's sockets would be too long."""
    folder = home / "ray"
    if len(str(folder)) <= 40:
        return folder
    return Path(tempfile.gettempdir()) / f"rung-{hashlib.sha256(str(home).encode()).hexdigest()[:10]}"


def _token(path: Path) -> str:
    if not path.exists():
        _write_whole(path, secrets.token_hex(32))
    return path.read_text().strip()


def _write_whole(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    with open(part, "w", opener=_private) as file:
        file.write(text)
    part.replace(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _end_session(leader: int) -> None:
    """Kill what is left of the session that a child led: Ray's daemons have process groups of their own."""
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader and pid != leader:
                os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
