"""Site: the installation of docker/compose.yaml as a person reaches it: through the proxy, with a token."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import psycopg

from service.client import Client
from tests.cluster.container import Container
from tests.cluster.installation import Installation
from tests.deployment import environment
from tests.faults import place
from tests.support.processes import command, pids

T = TypeVar("T")

HTTPS = "443"
TEAM, PERSON = "vision", "ada"
START_S = 900.0  # a node of Ray takes minutes to start on a busy machine


class Site:
    """`installation` has its containers by name. Two nodes train: `workers`."""

    rung: Client

    def __init__(self, folder: Path, workers: int = 2) -> None:
        variables = environment.filled_in()
        self.url = f"https://{variables['RUNG_DOMAIN']}"
        self.installation = Installation(folder, variables)
        self.folder = folder
        self._workers = workers

    def __enter__(self) -> Self:
        try:
            self.installation.up({"ray-worker": self._workers}, START_S)
            done = self.installation["rung"].exec("rung", "admin", "init", PERSON)
            assert done.returncode == 0, done.stderr
            self.rung = self.client(done.stdout.strip())
            self.wait_until(lambda: self.rung.cluster().reachable, "the service reaches Ray")
            self.rung.identity.create_team(TEAM)
            self.rung.identity.set_member(TEAM, PERSON, "member")
            self.wait_for_nodes(self._workers)
        except BaseException:
            self.installation.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.rung.close()
        self.installation.stop()

    def restore(self) -> None:
        """Bring back the initial state after a test: everything is ready, and so many nodes train."""
        self.installation.wait_until_ready(START_S)
        self.wait_for_nodes(self._workers)

    def client(self, token: str) -> Client:
        """A client that knows the authority of the proxy's certificate."""
        authority = self.folder / "volumes" / "proxy" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        verify = ssl.create_default_context(cafile=authority)
        socket = str(self.folder / "published" / HTTPS)
        return Client(self.url, token, transport=httpx.HTTPTransport(uds=socket, verify=verify))

    def address(self, experiment_id: str) -> str:
        return str(self.folder / "volumes" / "storage" / experiment_id)

    def query(self, database: str, statement: str, *values: object) -> list[Any]:
        """Rows of a statement, by the socket that PostgreSQL has in its container. Its `/var/run` is a link to `/run`,
        which would lead to that of this machine."""
        sockets = f"/proc/{self.installation['postgres'].pid}/root/run/postgresql"
        with psycopg.connect(host=sockets, user="postgres", dbname=database) as connection:
            return connection.execute(statement, values).fetchall()

    def wait_until(
        self, condition: Callable[[], T | None], what: str, timeout_s: float = START_S, look_s: float = 0.5
    ) -> T:
        return place.wait_until(condition, what, timeout_s, look_s, self._tails)

    def nodes(self) -> list[str]:
        """The names of the nodes that train."""
        return [one.name for one in self.rung.cluster().nodes if one.cpus]

    def wait_for_nodes(self, number: int) -> None:
        self.wait_until(lambda: len(self.nodes()) == number, f"{number} nodes that train", START_S)

    def workers(self) -> list[Container]:
        return [one for one in self.installation.containers() if one.service.name == "ray-worker"]

    def processes(self, container: Container, mark: str) -> list[int]:
        """The processes of a container whose command line has a text in it."""
        namespace = Path(f"/proc/{container.pid}/ns/pid")
        own = namespace.readlink()
        found = []
        for pid in pids():
            try:
                if Path(f"/proc/{pid}/ns/pid").readlink() == own and mark in command(pid):
                    found.append(pid)
            except OSError:  # it has ended
                continue
        return found

    def worker_of_a_trial(self) -> Container:
        """The container in which a trial runs now."""

        def found() -> Container | None:
            return next((one for one in self.workers() if self.processes(one, "ray::TrialWorker")), None)

        return self.wait_until(found, "a trial on one of the nodes", look_s=0.1)

    def _tails(self) -> str:
        logs = sorted((self.folder / "logs").glob("*.log"))
        return "".join(f"\n--- {log.name}\n" + log.read_text(errors="replace")[-1500:] for log in logs)
