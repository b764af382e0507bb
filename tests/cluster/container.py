"""Container: a service of the compose file as processes in namespaces of their own: for processes, mounts, the network,
names and shared memory. It has the user, rights, environment, files and command that the file and its image say.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.host import BOUND, Host, wait_for_namespace
from tests.cluster.root import Root
from tests.deployment.compose_file import Service

NAMESPACES = ("--mount", "--pid", "--net", "--ipc", "--uts")
#: What the compose file must say of every service, because nothing else is done here.
DROPPED, SECURITY = ("ALL",), ("no-new-privileges:true",)
STOP_S = 10.0
#: The wait before a container is started again is doubled each time, until it has run for `STEADY_S`.
SHORTEST_S, LONGEST_S, STEADY_S = 0.1, 60.0, 10.0


class Container:
    """It is started by `tend` while it is `wanted`, also again, with the files that it has written. `addresses` are the
    numbers of its networks, and its address on each. Its output is appended to `log`; `record` holds the number of its
    first process."""

    def __init__(
        self, service: Service, root: Root, addresses: Sequence[tuple[int, str]], gateway: str, folder: Path, name: str
    ) -> None:
        if (service.dropped, service.security) != (DROPPED, SECURITY):
            raise ValueError(f"services.{service.name} must have cap_drop: [ALL] and security_opt: [{SECURITY[0]}]")
        self.service = service
        self.name = name
        self.log = folder / "logs" / f"{name}.log"
        self.record = folder / "pids" / name
        self.environment = dict(service.environment)
        self.wanted = False
        self._root = root
        self._addresses = addresses
        self._gateway = gateway
        self._ends: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._started, self._delay_s = -STEADY_S, SHORTEST_S

    def tend(self, host: Host) -> None:
        """Start it if it is wanted and does not run. It ends with the thread that calls this."""
        with self._lock:
            if not self.wanted or self.is_running:
                return
            if self._process is not None and not self.service.restarts:
                self.wanted = False
                return
            now = time.monotonic()
            if now < self._started + self._delay_s and self._process is not None:
                return
            self._delay_s = SHORTEST_S if now > self._started + STEADY_S else min(2 * self._delay_s, LONGEST_S)
            self._started = now
            self._start(host)

    def _start(self, host: Host) -> None:
        for path in (self.log, self.record):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.record.unlink(missing_ok=True)
        words = (["tini", "--"] if self.service.init else []) + list(self.service.command)
        go = f"hostname {self.name}\nread -r _\nexec </dev/null"
        script = f"{self._root.script()}\n{go}\n{as_user(self.service)} {shlex.join(words)}"
        command = [*BOUND, "nsenter", f"--target={host.pid}", "--mount", "--"]
        command += ["unshare", *NAMESPACES, "--fork", "--kill-child", "sh", "-c", script]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=self.environment
            )
        wait_for_namespace(self._process.pid, "net")
        self._ends = host.connect(self._process.pid, self._addresses, self._gateway)
        written = self.record.with_suffix(".new")
        written.write_text(str(self._first()))
        written.replace(self.record)
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.close()

    @property
    def address(self) -> str:
        """Its address on the first of its networks."""
        return self._addresses[0][1]

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and before it has started."""
        return None if self._process is None else self._process.poll()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The number on this machine of its first process; the others end with it."""
        return int(self.record.read_text())

    def kill(self) -> None:
        """End all its processes at once. It is started again if the compose file says so."""
        with self._lock:
            self._signal(signal.SIGKILL)
            self._wait(STOP_S)

    def stop(self) -> None:
        """Ask it to end, and end it after its grace. It is not started again."""
        with self._lock:
            self.wanted = False
            self._signal(self.service.stop_signal)
            if not self._wait(self.service.stop_grace_s):
                self._signal(signal.SIGKILL)
                self._wait(STOP_S)

    def cut(self, host: Host) -> None:
        """Take its links to all networks away."""
        host.set_links(self._ends, up=False)

    def mend(self, host: Host) -> None:
        host.set_links(self._ends, up=True)

    def inside(self, *words: str) -> list[str]:
        """A command that runs another one in it, with its user and rights. It needs the container's environment."""
        script = f'{as_user(self.service)} "$@"'
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--ipc", "--uts"]
        return [*enter, "--", "sh", "-euc", script, "sh", *words]

    def exec(self, *words: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a command in it, to its end."""
        return subprocess.run(
            self.inside(*words),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def is_healthy(self) -> bool:
        health = self.service.health
        if health is None or not self.is_running or not self.record.exists():
            return False
        try:
            return self.exec(*health.command, timeout_s=health.timeout_s).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _first(self) -> int:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while self._process.poll() is None:
            if found := children.read_text().split():
                return int(found[0])
            time.sleep(0.01)
        raise RuntimeError(f"{self.name} did not start: {self.log.read_text()[-2000:]}")

    def _signal(self, number: int) -> None:
        if self.is_running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _wait(self, timeout_s: float) -> bool:
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def as_user(service: Service) -> str:
    """The beginning of a shell's last command: as the user, in the folder and with the rights of a service."""
    user, _, group = (service.user or "0:0").partition(":")
    kept = "".join(f",+{one.lower()}" for one in service.capabilities)
    rights = f"--no-new-privs --inh-caps=-all --bounding-set=-all{kept}"
    home = f"HOME=$(getent passwd {user} | cut -d: -f6)\nexport HOME"
    return f"{home}\ncd {service.folder}\nexec setpriv --reuid={user} --regid={group} --clear-groups {rights} --"
