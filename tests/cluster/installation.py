"""Installation: the services of docker/compose.yaml as containers, started in the order that the file says.

with Installation(folder, variables, profiles=("cpu",)) as running:
    running.up({"ray-worker": 2})
    print(running["rung"].exec("rung", "doctor").stdout)
"""

from __future__ import annotations

import itertools
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cluster.container import Container
from tests.cluster.host import BOUND, Host, address
from tests.cluster.layers import Layers, borrowed, known_images
from tests.cluster.root import Bind, Root
from tests.deployment.compose_file import FOLDER, Mount, Service, document, services

#: Services whose program is not to be had here, and why.
LEFT_OUT = {"grafana": "no package registry has it"}
LOOK_S = 1.0
TEND_S = 0.05


class Installation:
    """`folder` keeps the volumes and logs; `variables` are those of docker/.env. Containers have the names of their
    services; a further replica of one has a number after it: `ray-worker-2`."""

    def __init__(self, folder: Path, variables: Mapping[str, str], *, profiles: Sequence[str] = ("cpu",)) -> None:
        self.folder = folder
        self.host = Host(folder)
        self.layers = Layers(self.host)
        self.services = chosen(services(variables, known_images()), profiles)
        self._numbers = {name: number for number, name in enumerate(document()["networks"])}
        self._hosts = itertools.count(2)
        self._made = itertools.count()
        self._places = {name: next(self._hosts) for name in self.services}
        self._containers: dict[str, Container] = {}
        self._relays: list[subprocess.Popen[bytes]] = []
        self._ended = threading.Event()
        self._tending = threading.Thread(target=self._tend, name="restarts")
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __getitem__(self, name: str) -> Container:
        return self._containers[name]

    def up(self, replicas: Mapping[str, int] | None = None, timeout_s: float = 600.0) -> None:
        """Start everything, and wait until all that has a health check is healthy. Raises RuntimeError if it is not."""
        self.host.start()
        for _ in self._numbers:
            self.host.add_network()
        self._tending.start()
        for name, service in self.services.items():
            for number in range((replicas or {}).get(name, 1)):
                self.make(service, self.layers.of(image_of(service)), f"{name}-{number + 1}" if number else name)
        self.wait_until_ready(timeout_s)
        self._publish()

    def make(self, service: Service, layers: Sequence[Path], name: str = "") -> Container:
        """A container that is not started yet, with new files, and the address of an earlier one of its name."""
        name = name or service.name
        if name not in self._places:
            self._places[name] = next(self._hosts)
        place = self._places[name]
        networks = [(self._numbers[one], address(self._numbers[one], place)) for one in service.networks]
        declared = document()["networks"]
        outward = [one for one in service.networks if not (declared[one] or {}).get("internal")]
        gateway = address(self._numbers[outward[0]], 1) if outward else ""
        files = self.folder / "names" / name
        files.mkdir(parents=True, exist_ok=True)
        (files / "hosts").write_text(self._names(service, name, networks[0][1]))
        (files / "resolv.conf").write_text("")
        binds = [*borrowed(), *(Bind(files / one, f"/etc/{one}") for one in ("hosts", "resolv.conf"))]
        binds += [self._bind(one) for one in service.mounts]
        root = Root(
            layers=layers,
            written=self.host.memory / "containers" / f"{name}.{next(self._made)}",
            binds=binds,
            tmpfs=service.tmpfs,
            shared_memory=service.shared_memory,
            read_only=service.read_only,
        )
        self._containers[name] = Container(service, root, networks, gateway, self.folder, name)
        return self._containers[name]

    def containers(self) -> list[Container]:
        return list(self._containers.values())

    def add(self, name: str, service: Service | None = None, layers: Sequence[Path] = ()) -> Container:
        """Start a further replica of a service, or replace a container: also by another service, or of other layers."""
        if name in self._containers:
            self[name].stop()
        service = service or self.services[name.rstrip("-0123456789")]
        made = self.make(service, layers or self.layers.of(image_of(service)), name)
        made.wanted = True
        return made

    def remove(self, name: str) -> None:
        self._containers.pop(name).stop()

    def wait_until_ready(self, timeout_s: float = 600.0) -> None:
        """Start what is made once those are ready that it needs, and wait until everything is: healthy, or ended well.
        Raises RuntimeError if it is not."""
        ready: set[str] = set()
        deadline = time.monotonic() + timeout_s
        while missing := self._containers.keys() - ready:
            if self._failure is not None:
                raise self._failure
            if time.monotonic() > deadline:
                raise RuntimeError(f"not ready after {timeout_s:g} s: {', '.join(sorted(missing))}")
            for name in missing:
                one = self[name]
                if not one.wanted and one.exit_code is None and one.service.needs.keys() <= ready:
                    one.wanted = True
                elif is_ready(one):
                    ready.add(name)
            time.sleep(LOOK_S)

    def stop(self) -> None:
        """End everything at once, as when the power fails."""
        for one in self._containers.values():
            one.wanted = False
        for one in self._containers.values():
            one.kill()
        for relay in self._relays:
            relay.kill()
            relay.wait()
        self._ended.set()
        if self._tending.is_alive():
            self._tending.join()
        self.host.stop()

    def _bind(self, mount: Mount) -> Bind:
        if not mount.is_volume:
            return Bind((FOLDER / mount.source).resolve(), mount.target, mount.read_only)
        volume = self.folder / "volumes" / mount.source
        volume.mkdir(parents=True, exist_ok=True)
        return Bind(volume, mount.target, mount.read_only, is_volume=True)

    def _names(self, service: Service, name: str, own: str) -> str:
        """The names that a container knows: its own, and those of the services on its networks."""
        lines = ["127.0.0.1 localhost", f"{own} {name}"]
        for other in self.services.values():
            shared = [one for one in service.networks if one in other.networks]
            if shared and other.name != service.name:
                lines.append(f"{address(self._numbers[shared[0]], self._places[other.name])} {other.name}")
        return "\n".join(lines) + "\n"

    def _publish(self) -> None:
        """Each port that the file opens to the outside, as a socket in the folder `published`: this machine has no link
        to the networks."""
        published = self.folder / "published"
        published.mkdir(exist_ok=True)
        for service in self.services.values():
            for port in service.ports:
                outside, _, inside = port.partition(":")
                to = address(self._numbers[service.networks[0]], self._places[service.name])
                listen = f"UNIX-LISTEN:{published / outside},fork,unlink-early,mode=0600"
                words = self.host.inside(*BOUND, "socat", listen, f"TCP:{to}:{inside}")
                nothing = subprocess.DEVNULL  # a client that closes its side first is no error
                self._relays.append(subprocess.Popen([*BOUND, *words], stdin=nothing, stderr=nothing))

    def _tend(self) -> None:
        try:
            while not self._ended.wait(TEND_S):
                for one in list(self._containers.values()):
                    one.tend(self.host)
        except Exception as error:  # all containers end with this thread
            self._failure = error


def chosen(found: Mapping[str, Service], profiles: Sequence[str]) -> dict[str, Service]:
    """The services that these profiles start, without those that are left out."""
    return {
        name: one
        for name, one in found.items()
        if name not in LEFT_OUT and (not one.profiles or set(one.profiles) & set(profiles))
    }


def image_of(service: Service) -> str:
    return service.target or service.image.rpartition(":")[0]


def is_ready(one: Container) -> bool:
    """Whether those can start that need it. Raises RuntimeError if one without a health check ended with an error."""
    if one.service.health is not None:
        return one.is_healthy()
    if one.exit_code:
        raise RuntimeError(f"{one.name} ended with {one.exit_code}: {one.log.read_text()[-2000:]}")
    return one.exit_code == 0
