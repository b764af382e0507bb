"""`rung up` as an operator meets it: taken ports, a second one, a child that dies, a clean end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
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
    assert process.stdout is not None
    for line in process.stdout:
        if "Ctrl-C" in line:
            break
    yield home, process
    process.kill()
    process.wait()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(stack.StackError, match=f"--mlflow-port {port} of 127.0.0.1 cannot be used"):
            stack.Stack(stack.Options(home=tmp_path, mlflow_port=port))


def test_a_second_stack_on_the_same_home_is_refused(own: tuple[Path, subprocess.Popen[str]]) -> None:
    home, process = own
    _, said = (second := rung_up(home)).communicate()
    assert second.returncode == 1
    assert f"another `rung up` runs on {home}: process {process.pid}" in said


def test_everything_listens_on_loopback_and_ray_wants_its_token(own: tuple[Path, subprocess.Popen[str]]) -> None:
    at = json.loads((own[0] / "stack.json").read_text())
    assert all(at[name].startswith("http://127.0.0.1:") for name in ("service", "mlflow", "ray_dashboard"))
    assert httpx.get(f"{at['ray_dashboard']}/api/jobs/", trust_env=False).status_code == 401


def test_a_dead_child_ends_the_stack_with_its_name(own: tuple[Path, subprocess.Popen[str]]) -> None:
    home, process = own
    session = _sessions(home)["mlflow"]
    os.kill(session, signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == 1
    assert "mlflow died with exit status -9" in said
    assert not (home / "stack.json").exists()
    assert not _processes_of(home)


def _sessions(home: Path) -> dict[str, int]:
    """Name of each child -> its process id, by the commands that `rung up` runs in its home."""
    marks = {"mlflow": b"mlflow\0server", "service": b"service.app"}
    found = {}
    for process in _processes_of(home):
        command = Path(f"/proc/{process}/cmdline").read_bytes()
        found |= {name: process for name, mark in marks.items() if mark in command and os.getsid(process) == process}
    return found


def _processes_of(home: Path) -> list[int]:
    """Processes whose working folder is the home, or whose arguments name it."""
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
