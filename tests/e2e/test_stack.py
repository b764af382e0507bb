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
from pathlib import Path

import httpx
import pytest

from service import stack
from tests.support import processes

pytestmark = pytest.mark.e2e


def rung_up(home: Path, *options: str) -> subprocess.Popen[str]:
    """Nothing trains on it, so no worker is kept warm."""
    command = [sys.executable, "-c", "from service.cli import main; main()", "up", "--home", str(home), *options]
    environment = os.environ | {"RUNG_WARM_WORKERS": "0"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


#: Each of these stopped a part of a stack, or the command itself.
HOSTILE = {
    "ALL_PROXY": "socks5://127.0.0.1:1",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "https_proxy": "http://127.0.0.1:1",
    "NO_PROXY": "fe80::/10",
    "SSL_CERT_FILE": "/nowhere/ca.pem",
    "REQUESTS_CA_BUNDLE": "/nowhere/ca.pem",
    "WEB_CONCURRENCY": "4",
    "UVICORN_RELOAD": "1",
    "GUNICORN_CMD_ARGS": "--bad",
    "MLFLOW_TRACKING_URI": "http://192.0.2.1",
    "RAY_ADDRESS": "192.0.2.1:6379",
    "PYTHONPATH": "modules",
    "PYTHONIOENCODING": "ascii",
    "LC_ALL": "C",
    "TERM": "dumb",
}
RAY_WORKER_PORTS = range(10_002, 20_000)  # Ray's default for its workers, in which a port of ours failed


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A stack in a hostile environment: its home, a long folder for temporary files, variables and a port."""
    folder = tmp_path_factory.mktemp("own")
    home = folder / "a?b=c %20d#é"
    (temporary := folder / ("slurm." + "x" * 90)).mkdir()
    port = next(filter(_is_free, RAY_WORKER_PORTS))
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", environment | HOSTILE | {"TMPDIR": str(temporary)})
        process = rung_up(home, "--num-cpus", "1", "--ray-dashboard-port", str(port))
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
    children = _children(process.pid)
    listening = {name: processes.listening(processes.session(leader)) for name, leader in children.items()}
    assert listening.keys() == {"ray", "mlflow", "service"}
    assert all(listening.values()), f"a child does not listen: {listening}"
    for name in ("service", "mlflow"):
        assert int(at[name].rpartition(":")[2]) in {port for _, port in listening[name]}
    assert int(at["ray_dashboard"].rpartition(":")[2]) in {port for _, port in listening["ray"]}
    outside = {name: {at for at in places if not at[0].is_loopback} for name, places in listening.items()}
    assert not any(outside.values()), outside
    assert httpx.get(f"{at['ray_dashboard']}/api/jobs/", trust_env=False).status_code == 401


def test_all_files_are_private_whatever_the_environment(own: tuple[Path, subprocess.Popen[str]]) -> None:
    home, _ = own
    ray = (home / "ray_folder").readlink()
    assert [folder.stat().st_mode & 0o777 for folder in (home, ray)] == [0o700, 0o700]
    assert (ray / "s" / "session_latest" / "logs").is_dir()
    assert {"rung.db", "mlflow.db"} <= {path.name for path in home.iterdir()}
    assert [path.name for path in home.parent.iterdir() if not path.name.startswith("slurm.")] == [home.name]


def test_the_command_line_reaches_it_in_the_same_environment(own: tuple[Path, subprocess.Popen[str]]) -> None:
    home, _ = own
    command = [sys.executable, "-c", "from service.cli import main; main()", "list", "--json"]
    environment = os.environ | HOSTILE | {"RUNG_HOME": str(home)}
    listed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (listed.returncode, json.loads(listed.stdout)) == (0, []), listed.stderr


def test_only_its_owner_may_use_it(own: tuple[Path, subprocess.Popen[str]]) -> None:
    home, _ = own
    addresses = json.loads((home / "stack.json").read_text())
    service, mlflow = addresses["service"], addresses["mlflow"]
    assert (home / "owner_token").stat().st_mode & 0o777 == 0o600
    token = (home / "owner_token").read_text().strip()
    for given, status in ((token, 200), (f"{token}x", 401), (None, 401)):
        headers = {} if given is None else {"Authorization": f"Bearer {given}"}
        answer = httpx.get(f"{service}/api/v1/experiments", headers=headers, trust_env=False)
        assert answer.status_code == status
    assert (home / "mlflow_password").stat().st_mode & 0o777 == 0o600
    password = (home / "mlflow_password").read_text()
    search = f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    for login, status in ((("rung", password), 200), (("rung", "password1234"), 401), (None, 401)):
        assert httpx.get(search, auth=login, trust_env=False).status_code == status
    assert httpx.get(f"{mlflow}/", trust_env=False).status_code == 401


@pytest.mark.skipif(
    os.geteuid() != 0 or not all(one.stat().st_mode & 0o001 for one in Path(sys.executable).resolve().parents),
    reason="needs root, to run a command as another user, and a folder that others can enter",
)
def test_another_user_of_the_machine_is_refused(own: tuple[Path, subprocess.Popen[str]]) -> None:
    home, _ = own
    service = json.loads((home / "stack.json").read_text())["service"]
    command = [sys.executable, "-c", "from service.cli import main; main()", "list", "--url", service]
    environment = os.environ | {"RUNG_HOME": str(home), "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        command, env=environment, user=65534, group=65534, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"run `rung login --url {service}`" in done.stderr


def test_the_stack_exits_and_reports_the_child_that_exited(own: tuple[Path, subprocess.Popen[str]]) -> None:
    home, process = own
    os.kill(_children(process.pid)["mlflow"], signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "mlflow exited with status -9" in errors
    assert not (home / "stack.json").exists()
    assert not _processes_of(home)


def test_a_signal_stops_all_parts_cleanly(tmp_path: Path) -> None:
    home = tmp_path / "home"
    process = rung_up(home, "--num-cpus", "1", "--host", "::1")
    try:
        assert process.stdout is not None
        assert any("Ctrl-C" in line for line in process.stdout), process.communicate()
        at = json.loads((home / "stack.json").read_text())
        assert httpx.get(f"{at['service']}/healthz", trust_env=False).json() == {"status": "ok"}
        started = {pid for leader in _children(process.pid).values() for pid in processes.session(leader)}
        assert len(started) > 3
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, errors) == (0, "stopping ...\n", "")
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 10
    while any(map(processes.is_alive, started)) and time.monotonic() < deadline:  # the kernel needs a moment
        time.sleep(0.05)
    assert not any(map(processes.is_alive, started))
    assert not _processes_of(home)
    assert not (home / "stack.json").exists()


def _is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def _children(parent: int) -> dict[str, int]:
    """The session leaders that `rung up` started, by name."""
    marks = {"ray": "--head", "mlflow": "mlflow server", "service": "service.app"}
    commands = {pid: processes.command(pid) for pid in processes.children(parent)}
    return {name: pid for name, mark in marks.items() for pid, command in commands.items() if mark in command}


def _processes_of(home: Path) -> list[int]:
    """Processes whose working folder is the home or whose arguments contain it."""
    found = []
    for pid in processes.pids():
        with contextlib.suppress(OSError):  # it has ended
            command, cwd = processes.command(pid), os.readlink(f"/proc/{pid}/cwd")
            ours = cwd == str(home) or str(home) in command
            if ours and pid != os.getpid() and "from service.cli" not in command:
                found.append(pid)
    return found
