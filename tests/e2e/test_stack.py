"""`rung up` as an operator uses it: a port in use, a second stack, a child that exits, a clean shutdown."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import httpx
import pytest

from service import stack

pytestmark = pytest.mark.e2e


def rung_up(home: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from service.cli import main; main()", "up", "--home", str(home), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    home = tmp_path_factory.mktemp("own")
    process = rung_up(home, "--num-cpus", "1")
    try:
        assert process.stdout is not None
        assert any("Ctrl-C" in line for line in process.stdout), process.communicate()
        yield home, process
    finally:
        process.kill()
        process.wait()


def test_the_error_reports_the_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(stack.StackError, match=f"--mlflow-port {port} of 127.0.0.1 cannot be used"):
            stack.Stack(stack.Options(home=tmp_path, mlflow_port=port))


def test_a_second_stack_on_the_same_home_is_refused(own: tuple[Path, subprocess.Popen[str]]) -> None:
    home, process = own
    _, errors = (second := rung_up(home)).communicate()
    assert second.returncode == 1
    assert f"another `rung up` uses {home}: process {process.pid}" in errors


def test_all_parts_listen_on_loopback_and_ray_requires_its_token(own: tuple[Path, subprocess.Popen[str]]) -> None:
    home, process = own
    at = json.loads((home / "stack.json").read_text())
    listening = {name: _listening(_session(leader)) for name, leader in _children(process.pid).items()}
    assert listening.keys() == {"ray", "mlflow", "service"}
    assert all(listening.values()), f"a child does not listen: {listening}"
    for name in ("service", "mlflow"):
        assert int(at[name].rpartition(":")[2]) in {port for _, port in listening[name]}
    assert int(at["ray_dashboard"].rpartition(":")[2]) in {port for _, port in listening["ray"]}
    outside = {name: {at for at in places if not at[0].is_loopback} for name, places in listening.items()}
    assert not any(outside.values()), outside
    assert httpx.get(f"{at['ray_dashboard']}/api/jobs/", trust_env=False).status_code == 401


def test_the_stack_exits_and_reports_the_child_that_exited(own: tuple[Path, subprocess.Popen[str]]) -> None:
    home, process = own
    os.kill(_children(process.pid)["mlflow"], signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "mlflow exited with status -9" in errors
    assert not (home / "stack.json").exists()
    assert not _processes_of(home)


@pytest.mark.parametrize(
    ("number", "options"), [(signal.SIGINT, ()), (signal.SIGTERM, ("--host", "::1"))], ids=["SIGINT", "SIGTERM-ipv6"]
)
def test_a_signal_stops_all_parts_cleanly(tmp_path: Path, number: signal.Signals, options: tuple[str, ...]) -> None:
    home = tmp_path / "home"
    process = rung_up(home, "--num-cpus", "1", *options)
    try:
        assert process.stdout is not None
        assert any("Ctrl-C" in line for line in process.stdout), process.communicate()
        at = json.loads((home / "stack.json").read_text())
        assert httpx.get(f"{at['service']}/healthz", trust_env=False).json() == {"status": "ok"}
        started = {pid for leader in _children(process.pid).values() for pid in _session(leader)}
        assert len(started) > 3
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, errors) == (0, "stopping ...\n", "")
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 10
    while _running(started) and time.monotonic() < deadline:  # the kernel needs a moment to remove killed processes
        time.sleep(0.05)
    assert not _running(started)
    assert not _processes_of(home)
    assert not (home / "stack.json").exists()


def _pids() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]


def _running(pids: set[int]) -> set[int]:
    """Those that still run. A zombie does not: it stays in the table until its parent waits for it."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                found.add(pid)
    return found


def _children(parent: int) -> dict[str, int]:
    """The session leaders that `rung up` started, by name."""
    marks = {"ray": b"--head", "mlflow": b"mlflow\0server", "service": b"service.app"}
    found = {}
    for pid in _pids():
        try:
            status, command = Path(f"/proc/{pid}/stat").read_text(), Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if int(status.rpartition(")")[2].split()[1]) == parent:
            found |= {name: pid for name, mark in marks.items() if mark in command}
    return found


def _session(leader: int) -> list[int]:
    """All processes of a session. Ray's daemons have their own process groups, but stay in the session."""
    found = []
    for pid in _pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == leader:
                found.append(pid)
    return found


def _listening(pids: list[int]) -> set[tuple[IPv4Address | IPv6Address, int]]:
    """Addresses and ports of the TCP sockets on which the processes listen, from /proc."""
    held = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it has exited
            held |= {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            local, state, inode = (line.split()[column] for column in (1, 3, 9))
            if state == "0A" and f"socket:[{inode}]" in held:
                address, _, port = local.partition(":")
                found.add((_address(address), int(port, 16)))
    return found


def _address(words: str) -> IPv4Address | IPv6Address:
    """Parse an address of /proc/net: words of four bytes, each in this machine's byte order."""
    packed = b"".join(int(words[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(words), 8))
    address = ip_address(packed)
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _processes_of(home: Path) -> list[int]:
    """Processes whose working folder is the home or whose arguments contain it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            arguments, cwd = (folder / "cmdline").read_bytes(), os.readlink(folder / "cwd")
        except OSError:
            continue
        ours = cwd == str(home) or str(home).encode() in arguments
        if ours and int(folder.name) != os.getpid() and b"from service.cli" not in arguments:
            found.append(int(folder.name))
    return found
