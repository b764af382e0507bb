"""Host: what all containers stand on: bridges for their networks, and memory for the files that they write.

One process keeps both in namespaces of its own: with it, everything is gone, also if this process is killed. The
machine's own network and mounts are not touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = ("ip", "unshare", "nsenter", "setpriv", "pivot_root", "tini", "gosu", "socat", "caddy", "prometheus", "psql")
WAIT_S = 30.0
#: For one instruction of an image, on a busy machine.
LIMIT_S = 3600.0
#: Starts a program that ends when the thread does that started it.
BOUND = ("setpriv", "--pdeathsig", "KILL", "--")


def why_missing() -> str:
    """The reason why no container can run on this machine; empty if they can."""
    if os.geteuid() != 0:
        return "containers need root, for their namespaces"
    if Path(sys.prefix).is_relative_to("/tmp"):
        return f"the environment must not be in /tmp, where containers have folders of their own (got {sys.prefix})"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


class Host:
    """`memory` is a folder that only processes of the host see."""

    def __init__(self, folder: Path) -> None:
        self.memory = folder / "memory"
        self._keeper: subprocess.Popen[bytes] | None = None
        self._bridges = 0
        self._links = 0

    def start(self) -> None:
        self.memory.mkdir(parents=True, exist_ok=True)
        words = [*BOUND, "unshare", "--net", "--mount", "sleep", "infinity"]
        self._keeper = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        wait_for_namespace(self._keeper.pid, "mnt")
        wait_for_namespace(self._keeper.pid, "net")
        self.run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(self.memory))
        self.run("ip", "link", "set", "lo", "up")

    def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.kill()
            self._keeper.wait()
            self._keeper = None

    @property
    def pid(self) -> int:
        if self._keeper is None:
            raise RuntimeError("the host must be started first")
        return self._keeper.pid

    def inside(self, *words: str) -> list[str]:
        """A command that runs another one on the host."""
        return ["nsenter", f"--target={self.pid}", "--net", "--mount", "--", *words]

    def run(self, *words: str) -> None:
        checked(self.inside(*words))

    def add_network(self) -> str:
        """A new bridge, for addresses that `address` gives. It forwards to no other."""
        bridge = f"net{self._bridges}"
        self.run("ip", "link", "add", bridge, "type", "bridge")
        self.run("ip", "addr", "add", f"{address(self._bridges, 1)}/24", "dev", bridge)
        self.run("ip", "link", "set", bridge, "up")
        self._bridges += 1
        return bridge

    def connect(self, pid: int, addresses: Sequence[tuple[int, str]], gateway: str) -> list[str]:
        """Give a process, in a network namespace of its own, an interface on each of some networks. Returns their ends
        on the host."""
        ends, orders = [], ["link set lo up"]
        for number, (network, one) in enumerate(addresses):
            self._links += 1
            end = f"link{self._links}"
            mac = "02:42:" + ":".join(f"{int(part):02x}" for part in one.split("."))  # the same after a restart
            self.run(*f"ip link add {end} type veth peer name eth{number} address {mac} netns {pid}".split())
            self.run(*f"ip link set {end} master net{network} up".split())
            orders += [f"addr add {one}/24 dev eth{number}", f"link set eth{number} up"]
            ends.append(end)
        orders += [f"route add default via {gateway}"] if gateway else []
        words = ["nsenter", f"--target={pid}", "--net", "--", "ip", "-batch", "-"]
        checked(words, "\n".join(orders))
        return ends

    def set_links(self, ends: Sequence[str], *, up: bool) -> None:
        for end in ends:
            self.run("ip", "link", "set", end, "up" if up else "down")


def address(network: int, number: int) -> str:
    """The address of a number of a network; 1 is the bridge's own."""
    return f"10.88.{network}.{number}"


def checked(words: Sequence[str], given: str = "") -> None:
    """Run a command. Raises RuntimeError with what it wrote if it fails."""
    done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)[-400:]} ended with {done.returncode}: {done.stdout}{done.stderr}")


def wait_for_namespace(pid: int, kind: str) -> None:
    """Wait until a process has left this process's namespace of a kind. Raises RuntimeError if it does not."""
    own, deadline = os.readlink(f"/proc/self/ns/{kind}"), time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/{kind}") != own:
                return
        time.sleep(0.01)
    raise RuntimeError(f"process {pid} has no {kind} namespace of its own after {WAIT_S:g} s")
