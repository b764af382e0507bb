"""Stand: PostgreSQL, MLflow, Ray and the service, each a process of its own that can be killed and started again.

Owns the processes, their ports and folder, and the proxy through which drivers reach the service. Commands
and variables of MLflow, Ray and the service are those of `rung up` (service/stack); only the database is
PostgreSQL, and times are short. It must not know experiments.
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
from service.stack.components import RAY_PORTS
from tests.faults.proxy import Proxy

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
START_S = 240.0
#: Below the ports that outgoing connections get, so that a part which is down finds its own port free again.
PORTS = range(20_000, 32_000)
PARTS = ("postgres", "mlflow", "ray", "service", "second")
SHORT = {
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
POSTGRES = (  # nothing is to survive a power failure here: kill -9 leaves what was written to the kernel
    "fsync=off",
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
)


#: What the SDK raises while the service is away.
AWAY = (UnavailableError,)


class Stand:
    """`start`, `kill` and `stop` take names of `PARTS`; `pids` finds processes by their command.

    `settings` are variables of the service, by their names without RUNG_. The proxy leads to whichever of
    the service's replicas accepts.
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
                data_root=self.home,  # without a data set
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
            self.settled()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def start(self, *names: str, **settings: str) -> None:
        """Start parts that are not there, side by side, and wait until each answers."""
        for name in names:
            if not self.runs(name):
                self._spawn(name, settings)
        for name in names:
            self.until(lambda name=name: self._ready(name, settings), f"{name} answers", START_S)

    def kill(self, *names: str) -> None:
        """SIGKILL to all processes of the parts, at once: nobody is asked, nobody is told."""
        doomed: list[int] = []
        for name in names:
            doomed += self._members(name)
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._reap(names)
        self.until(lambda: not any(map(alive, doomed)), f"{names} are gone")

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """Ask a part to end, and wait until it has."""
        self._processes[name].send_signal(number)
        self._reap([name])

    def settled(self) -> None:
        """Wait until the service sees database, Ray, MLflow and a node."""
        with httpx.Client(base_url=self.url, trust_env=False, timeout=10) as http:
            self.until(lambda: stack.sees_all(http.get("/readyz")), "the service sees all", START_S)
            self.until(lambda: stack.sees_a_node(http.get("/api/v1/cluster")), "the service sees a node", START_S)

    def whole(self, **settings: str) -> None:
        """All parts but the second replica run, as at the beginning, whatever a test before has left."""
        if self.runs("second"):
            self.kill("second")
        self.proxy.mend()
        self.start("postgres")
        self.start("mlflow", "ray", "service", **settings)
        self.settled()

    def restart_service(self, **settings: str) -> None:
        """The service anew, with other settings (`LEASE_S="2"`) or variables (`LD_PRELOAD=...`) than by default."""
        self.kill("service")
        self.start("service", **settings)

    def runs(self, name: str) -> bool:
        process = self._processes.get(name)
        return process is not None and process.poll() is None

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def log(self, name: str) -> str:
        return (self.home / "logs" / f"{name}.log").read_text(errors="replace")

    def files(self, experiment_id: str) -> Path:
        """An experiment's folder."""
        return next((root / experiment_id for root in self.storages if (root / experiment_id).exists()), Path("absent"))

    def dsn(self, database: str) -> str:
        return f"postgresql://rung@127.0.0.1:{self._postgres_port}/{database}"

    def query(self, database: str, statement: str, *values: object) -> list[Any]:
        """Rows of a database of the stand's: `rung` or `mlflow`."""
        with psycopg.connect(self.dsn(database)) as connection:
            return connection.execute(statement, values).fetchall()

    def pids(self, *marks: str) -> list[int]:
        """Processes of this stand's Ray, with its drivers and slots, whose command holds every mark."""
        return [pid for pid in self._members("ray") if all(mark in command(pid) for mark in marks)]

    def left(self) -> dict[int, str]:
        """Living processes that this stand has started, directly or not, and their commands."""
        mark = f"RUNG_STAND={self.folder}".encode()
        found = {}
        for pid in processes():
            with contextlib.suppress(OSError):
                known = mark in (Path(f"/proc/{pid}/environ").read_bytes()) or str(self.folder) in command(pid)
                if known and pid != os.getpid() and alive(pid):
                    found[pid] = command(pid)
        return found

    def down(self) -> None:
        """End everything, and check that it is gone."""
        self.rung.close()
        self.proxy.close()
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.kill(*(name for name in PARTS if self.runs(name)))
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.until(lambda: not self.left(), "all processes of the stand are gone")

    def until(self, condition: Callable[[], T], what: str, timeout_s: float = 180.0) -> T:
        """The first true answer of `condition`. Errors of a part that is away count as no answer."""
        deadline = time.monotonic() + timeout_s
        while True:
            answer, said = None, ""
            try:
                answer = condition()
            except (httpx.HTTPError, psycopg.Error, OSError, *AWAY) as error:
                said = f": {error!r}"
            if answer:
                return answer
            if time.monotonic() >= deadline:
                raise AssertionError(f"not within {timeout_s:g} s: {what}{said}{self._tails()}")
            time.sleep(0.05)

    def _ready(self, name: str, settings: Mapping[str, str]) -> bool:
        if not self.runs(name):  # Ray gives its parts 30 s to start, which a loaded machine may exceed
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
            **SHORT,
            "RUNG_STAND": str(self.folder),
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
                    environment[key if key in VARIABLES else f"RUNG_{key}"] = value
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
        """A part's process and all below it. Of Ray, also those whose parents have died."""
        found = _tree(self._processes[name].pid) if self.runs(name) else []
        if name == "ray":
            others = {pid for other in PARTS if other != "ray" and self.runs(other) for pid in self._members(other)}
            found += [pid for pid in self.left() if pid not in others and pid not in found]
        return found

    def _reap(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._processes:
                self._processes.pop(name).wait(60)

    def _init_postgres(self) -> None:
        """A new cluster of databases; PostgreSQL refuses to run as root, so root lends it another user."""
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


#: Variables of the service's process that are none of Rung's own.
VARIABLES = frozenset({"LD_PRELOAD", "FAKETIME_TIMESTAMP_FILE", "FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC"})


@contextlib.contextmanager
def standing(**settings: str) -> Iterator[Stand]:
    """A stand in a folder of its own, which others may enter: PostgreSQL runs as another user."""
    folder = Path(tempfile.mkdtemp(prefix="rung-stand-"))
    folder.chmod(0o711)
    try:
        with Stand(folder, **settings) as stand:
            yield stand
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def postgres_is_missing() -> str:
    """Why no stand can be had here; empty where it can."""
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
    """Whether a process runs; one that has died and was not yet waited for does not."""
    return _stat(pid)[0] not in {"Z", "X", ""}


INSTALLED = Path("/usr/lib/postgresql")


def _postgres(program: str) -> str:
    """Debian keeps PostgreSQL's programs off the path."""
    return shutil.which(program) or str(max(INSTALLED.glob(f"*/bin/{program}")))


def _unprivileged() -> dict[str, Any]:
    """Options of a process that must not be root's."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _stat(pid: int) -> tuple[str, int]:
    """State and parent of a process; empty and 0 where it is gone."""
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
    """Different ports of the loopback that nobody uses."""
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
