"""Stand: PostgreSQL, MLflow, Ray and the service as separate processes that tests kill and start again.

Owns the processes, their ports and folder, and the proxy through which drivers reach the service. MLflow, Ray and
the service get the commands and the environment of `rung up` (service/stack), except that the database is PostgreSQL
and the times are short. It must not know experiments.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg

from service import stack
from service.client import Client
from service.contract.errors import UnavailableError
from service.stack import children
from service.stack.components import RAY_PORTS, sees_a_node, sees_all
from tests.faults.proxy import Proxy

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
START_S = 240.0
#: Below the range of outgoing connections, so that the port of a stopped part stays free until it starts again.
PORTS = range(20_000, 32_000)
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
POSTGRES = (  # no test cuts the power, and what was written to the kernel survives kill -9
    "fsync=off",
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
)


class Stand:
    """`start` and `kill` take names of `PARTS`; `pids` finds processes by their command line.

    `settings` are settings of the service: the variables' names without `RUNG_`. The proxy forwards to the first
    replica of the service that accepts the connection.
    """

    def __init__(self, folder: Path, cpus: int = 4, **settings: str) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        ports = list(_free_ports(10))
        self._stack = stack.Stack(
            stack.Options(
                home=self.home,
                port=ports[0],
                mlflow_port=ports[1],
                ray_dashboard_port=ports[2],
                num_cpus=cpus,
                data_root=self.home,  # holds no data set
            )
        )
        self._stack.ray_ports = dict(zip(RAY_PORTS, ports[3:7], strict=True))
        self._postgres_port = ports[7]
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
            self._init_postgres()
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
            self.wait_until(lambda name=name: self._ready(name, settings), f"{name} is ready", START_S)

    def kill(self, *names: str) -> None:
        """Send SIGKILL to all processes of the parts at once, and wait until they are gone."""
        doomed: list[int] = []
        for name in names:
            doomed += self._members(name)
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._reap(names)
        self.wait_until(lambda: not any(map(alive, doomed)), f"{names} are gone")

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

    def dsn(self, database: str) -> str:
        return f"postgresql://rung@127.0.0.1:{self._postgres_port}/{database}"

    def query(self, database: str, statement: str, *values: object) -> list[Any]:
        """Rows of a statement on one of the databases `rung` and `mlflow`."""
        with psycopg.connect(self.dsn(database)) as connection:
            return connection.execute(statement, values).fetchall()

    def pids(self, *marks: str) -> list[int]:
        """Processes of this stand's Ray (drivers and trials too) whose command line contains every mark."""
        return [pid for pid in self._members("ray") if all(mark in command(pid) for mark in marks)]

    def remaining_processes(self) -> dict[int, str]:
        """Process ids and command lines of the running processes that this stand started, directly or indirectly."""
        mark = f"RUNG_TEST_STAND={self.folder}".encode()
        found = {}
        for pid in processes():
            with contextlib.suppress(OSError):
                ours = mark in (Path(f"/proc/{pid}/environ").read_bytes()) or str(self.folder) in command(pid)
                if ours and pid != os.getpid() and alive(pid):
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

    def wait_until(self, condition: Callable[[], T], what: str, timeout_s: float = 180.0) -> T:
        """Wait until `condition` returns a true value, and return it. Errors of unreachable parts count as false."""
        deadline = time.monotonic() + timeout_s
        while True:
            result, last_error = None, ""
            try:
                result = condition()
            except (httpx.HTTPError, psycopg.Error, OSError, UnavailableError) as error:
                last_error = f": {error!r}"
            if result:
                return result
            if time.monotonic() >= deadline:
                raise AssertionError(f"timed out after {timeout_s:g} s: {what}{last_error}{self._tails()}")
            time.sleep(0.05)

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
        user: dict[str, Any] = {}
        match name:
            case "postgres":
                options = [word for option in POSTGRES for word in ("-c", option)]
                command = [
                    _postgres("postgres"),
                    "-D",
                    str(self.folder / "pg"),
                    "-p",
                    str(self._postgres_port),
                    *options,
                ]
                user = _unprivileged()
            case "mlflow":
                command = list(parts["mlflow"].command)
                command[command.index("--backend-store-uri") + 1] = self.dsn("mlflow").replace("://", "+psycopg://")
            case "ray":
                command, environment = parts["ray"].command, {**parts["ray"].environment, **environment}
            case _:
                command = [sys.executable, "-m", "service.app"]
                environment |= {"RUNG_PORT": self.second_url.rpartition(":")[2]} if name == "second" else {}
                for key, value in (self._settings | dict(settings)).items():
                    environment[key if key in FOREIGN_VARIABLES else f"RUNG_{key}"] = value
        log = self.home / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as output:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.folder if user else self.home,
                start_new_session=True,
                preexec_fn=children._dies_with(os.getpid()),
                **user,
            )

    def _members(self, name: str) -> list[int]:
        """The process of a part and its descendants. For Ray, also those whose parents have exited."""
        found = _tree(self._processes[name].pid) if self.is_running(name) else []
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

    def _init_postgres(self) -> None:
        """Create an empty PostgreSQL cluster. PostgreSQL refuses to run as root; then another user runs it."""
        user = _unprivileged()
        folder = self.folder / "pg"
        folder.mkdir(mode=0o700)
        if user:
            shutil.chown(folder, user["user"], user["group"])
        command = [_postgres("initdb"), "-D", str(folder), "-U", "rung", "--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **user)

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
        with Stand(folder, **settings) as stand:
            yield stand
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def why_no_postgres() -> str:
    """The reason why a stand cannot run on this machine; empty if it can."""
    return (
        "" if shutil.which("initdb") or list(INSTALLED.glob("*/bin/initdb")) else "PostgreSQL's initdb is not installed"
    )


def processes() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether a process runs. A zombie does not."""
    return _stat(pid)[0] not in {"Z", "X", ""}


INSTALLED = Path("/usr/lib/postgresql")


def _postgres(program: str) -> str:
    """The path of a program of PostgreSQL; Debian installs them outside PATH."""
    return shutil.which(program) or str(max(INSTALLED.glob(f"*/bin/{program}")))


def _unprivileged() -> dict[str, Any]:
    """Options of `Popen` for a process that must not run as root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _stat(pid: int) -> tuple[str, int]:
    """State and parent of a process; empty and 0 if it does not exist."""
    try:
        state, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return state, int(parent)


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid in processes():
        children.setdefault(_stat(pid)[1], []).append(pid)
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _free_ports(count: int) -> Iterator[int]:
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
