"""`rung up` without its three children, which tests/e2e starts: options, settings, home, processes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service import stack
from service.cli.terminal import data_folder
from service.settings import Settings
from service.stack import home
from service.stack.components import Check, Component


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


Up = Callable[..., int]


@pytest.fixture
def up() -> Iterator[Up]:
    """`rung up` in this process, which takes over its signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield stack.up
    for number, handler in before.items():
        signal.signal(number, handler)


#: A process that prints a line and stays.
PYTHON = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]


@pytest.fixture
def a_stack(tmp_path: Path) -> stack.Stack:
    return stack.Stack(stack.Options(home=tmp_path))


def test_ports_are_checked_on_the_host_that_the_service_listens_on(tmp_path: Path) -> None:
    with pytest.raises(stack.StackError, match=r"a free port of 192\.0\.2\.1 cannot be used"):
        stack.Stack(stack.Options(home=tmp_path, host="192.0.2.1"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(stack.StackError, match=f"--port {port} of 127.0.0.2 cannot be used"):
            stack.Stack(stack.Options(home=tmp_path, host="127.0.0.2", port=port))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 70_000}, "--port must be between 0 and 65535 (got 70000)"),
        ({"data_root": Path("/proc/rung")}, "--data-root must be an existing folder (got /proc/rung)"),
    ],
)
def test_a_wrong_option_is_reported(
    up: Up, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: dict[str, Any], message: str
) -> None:
    wrong = stack.Options(home=tmp_path / "home", **options)
    assert up(wrong) == 2
    assert capfd.readouterr().err == f"rung up: {message}\n"
    assert up(wrong, as_json=True) == 2
    assert json.loads(capfd.readouterr().err)["detail"] == message


def test_a_home_that_cannot_be_used_is_reported(up: Up, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for place, why in (
        (tmp_path / "file", "File exists"),
        (tmp_path / "file" / "home", "Not a directory"),
        (Path("/proc/rung"), "No such file or directory"),
    ):
        assert up(stack.Options(home=place)) == 2
        assert capfd.readouterr().err == (
            f"rung up: cannot use the home folder {place}: {why}; choose a folder that you can write to\n"
        )


def test_settings_that_are_invalid_or_misspelled_are_reported_before_anything_starts(
    up: Up, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNG_HEARTBEAT", "1")
    monkeypatch.setenv("RUNG_LEASE_S", "-1")
    assert up(stack.Options(home=tmp_path / "home")) == 2
    assert capfd.readouterr().err.splitlines() == [
        "rung up: RUNG_HEARTBEAT: there is no such setting; did you mean RUNG_HEARTBEAT_S?",
        "RUNG_LEASE_S: must be greater than 0 (got '-1')",
    ]
    assert not (tmp_path / "home" / "logs").exists()


def test_settings_without_an_effect_are_reported(
    up: Up, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack.Stack, "start", lambda self, interrupted: None)
    monkeypatch.setattr(stack.Stack, "watch", lambda self, ended: None)
    monkeypatch.setenv("RUNG_DATABASE_URL", "postgresql://db/rung")
    monkeypatch.setenv("RUNG_HOST", "0.0.0.0")
    assert up(stack.Options(home=tmp_path / "home"), as_json=True) == 0
    ignored = "rung up: ignoring RUNG_DATABASE_URL, RUNG_HOST: `rung up` sets them itself or has an option for them. "
    assert capfd.readouterr().err.startswith(ignored)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_a_stack(
    up: Up, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def watch(_: stack.Stack, ended: threading.Event) -> None:
        os.kill(os.getpid(), number)
        assert ended.wait(10)

    monkeypatch.setattr(stack.Stack, "start", lambda self, interrupted: None)
    monkeypatch.setattr(stack.Stack, "watch", watch)
    assert up(stack.Options(home=tmp_path / "home")) == 0
    output = capfd.readouterr()
    assert (output.out.splitlines()[-1], output.err) == ("stopping ...", "")


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")
def test_the_service_can_listen_on_ipv6(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "")
    found = stack.Stack(stack.Options(home=tmp_path, host="::1"))
    assert re.fullmatch(r"http://\[::1\]:\d+", found.addresses.service)
    environment = found.components()["service"].environment
    assert environment["no_proxy"] == "127.0.0.1,localhost,::1"
    settings = Settings(home=tmp_path, host=environment["RUNG_HOST"], port=int(environment["RUNG_PORT"]))
    assert settings.service_url == found.addresses.service
    assert "::1" in settings.hosts


def test_only_the_owner_can_read_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack.Stack, "start", lambda self, interrupted: None)
    with stack.running(stack.Options(home=tmp_path / "home")):
        assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


def test_a_database_keeps_a_write_ahead_log(tmp_path: Path) -> None:
    home.enable_wal(tmp_path / "new.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "new.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_database_that_another_process_reads_is_left_unchanged(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "old.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE runs (id)")
        database.execute("BEGIN")
        database.execute("SELECT * FROM runs").fetchall()
        home.enable_wal(tmp_path / "old.db")
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize(
    ("make", "why"), [(lambda file: file.write_text("else " * 999), "not a database"), (Path.mkdir, "unable to open")]
)
def test_a_file_that_is_not_a_database_is_reported(tmp_path: Path, make: Callable[[Path], None], why: str) -> None:
    make(tmp_path / "mlflow.db")
    with pytest.raises(stack.StackError, match=rf"cannot use .*mlflow\.db: .*{why}"):
        home.enable_wal(tmp_path / "mlflow.db")


def test_commands_find_the_data_sets_of_a_running_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNG_HOME", str(tmp_path))
    assert data_folder() == tmp_path / "data"
    (tmp_path / "sets").mkdir()
    addresses = stack.Stack(stack.Options(home=tmp_path, data_root=tmp_path / "sets")).addresses
    home.write_addresses(tmp_path, addresses)
    assert data_folder() == tmp_path / "sets"
    home.remove_addresses(tmp_path)
    assert data_folder() == tmp_path / "data"


def part(name: str, code: str, port: int, log: Path | None = None) -> Component:
    """A component that runs `code` and is ready when its port answers with "ray" as what it waits for."""
    check = Check(f"http://127.0.0.1:{port}/", lambda answer: answer.status_code == 200, lambda answer: "ray")
    return Component(name, [sys.executable, "-c", code], os.environ, (check,), lambda: log)


#: Serves the folder "ready" on a port, or answers 404 if there is none.
SERVE = "import functools, http.server as h; h.test(functools.partial(h.SimpleHTTPRequestHandler), port={port})"
#: Fails at the first start, as Ray does on a busy machine.
FAIL_ONCE = """
import os, sys
if not os.path.exists("began"):
    open("began", "w").close()
    sys.exit(print("the raylet aborted"))
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(a_stack: stack.Stack, monkeypatch: pytest.MonkeyPatch, *parts: Component) -> None:
    monkeypatch.setattr(a_stack, "components", lambda: {one.name: one for one in parts})
    try:
        a_stack.start(threading.Event())
    finally:
        a_stack.stop()


def test_ray_is_started_again_once(
    a_stack: stack.Stack, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], port: int
) -> None:
    start(a_stack, monkeypatch, part("ray", FAIL_ONCE + SERVE.format(port=port), port))
    errors = capfd.readouterr().err
    assert "rung up: ray exited with status 0 while it started; starting it again" in errors
    assert "ray| the raylet aborted" in errors


#: Starts a program that ends a moment later at the first start, and waits for it for ever.
LOSE_ONCE = """
import os, subprocess, sys, time
again = os.path.exists("began")
open("began", "w").close()
subprocess.Popen(["/bin/raylet", "-c", f"import time; time.sleep({60 if again else 1})"], executable=sys.executable)
if not again:
    print("waiting for the raylet", flush=True)
    time.sleep(60)
"""


def test_ray_that_loses_a_process_while_it_starts_is_started_again_once(
    a_stack: stack.Stack, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], port: int
) -> None:
    monkeypatch.setattr("service.stack.embedded.LOST_CHECK_S", 0.1)
    ray = replace(part("ray", LOSE_ONCE + SERVE.format(port=port), port), vital=("gcs_server", "raylet"))
    start(a_stack, monkeypatch, ray)
    errors = capfd.readouterr().err
    assert "rung up: ray lost its process raylet while it started; starting it again" in errors
    assert "ray| waiting for the raylet" in errors


def test_ray_that_exits_twice_is_reported_with_the_log_of_its_own_parts(
    a_stack: stack.Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, port: int
) -> None:
    (tmp_path / "raylet.err").write_text("Check failed: the agent did not register\n")
    with pytest.raises(stack.StackError) as caught:
        start(a_stack, monkeypatch, part("ray", "print('bye')", port, tmp_path / "raylet.err"))
    assert str(caught.value).startswith("ray exited with status 0\n  ray| bye\n")
    assert "raylet| Check failed: the agent did not register" in str(caught.value)
    assert f"(full log: {tmp_path / 'raylet.err'})" in str(caught.value)


def test_another_part_that_exits_is_not_started_again(
    a_stack: stack.Stack, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    with pytest.raises(stack.StackError, match=r"mlflow exited with status 0\n  mlflow\| the raylet aborted"):
        start(a_stack, monkeypatch, part("mlflow", FAIL_ONCE, port))


def test_a_part_without_progress_is_reported_with_the_log_of_the_one_it_waits_for(
    a_stack: stack.Stack, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    monkeypatch.setattr("service.stack.patience.QUIET_S", 0.5)
    monkeypatch.setattr("service.stack.patience.SAMPLE_S", 0.1)
    ray = replace(part("ray", "import time; print('no node yet', flush=True); time.sleep(60)", port), checks=())
    fails = (
        "import http.server as h; h.SimpleHTTPRequestHandler.do_GET = lambda one: one.send_error(503); "
        "h.SimpleHTTPRequestHandler.log_message = lambda *_: None; "
    )
    with pytest.raises(stack.StackError) as caught:
        start(a_stack, monkeypatch, ray, part("service", fails + SERVE.format(port=port), port))
    assert "ray is not ready, without progress for " in str(caught.value)
    assert "last answer of service: 503" in str(caught.value)
    assert "ray| no node yet" in str(caught.value)


def test_a_full_disk_is_reported(
    up: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "ray.log")

    monkeypatch.setattr(stack.Stack, "start", full)
    assert up(stack.Options(home=tmp_path / "home")) == 1
    assert capfd.readouterr().err == "rung up: [Errno 28] No space left on device: 'ray.log'\n"


@pytest.mark.parametrize("name", ["stack.lock", "rung.db", "data"])
def test_a_folder_with_files_of_others_is_no_home(
    up: Up, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its mode is not changed, as that of /tmp was. A home that has run, or has only data, is one."""
    monkeypatch.setattr(stack.Stack, "start", lambda self, interrupted: None)
    shared, existing = tmp_path / "shared", tmp_path / "existing"
    for folder, content in ((shared, "thesis.tex"), (existing, name)):
        folder.mkdir()
        folder.chmod(0o1777)
        (folder / content).touch()
    assert up(stack.Options(home=shared)) == 2
    said = f"rung up: the home folder must be new, empty or a home of Rung (got {shared}, which has thesis.tex): "
    assert capfd.readouterr().err.startswith(said)
    assert (shared.stat().st_mode & 0o7777, [one.name for one in shared.iterdir()]) == (0o1777, ["thesis.tex"])
    with stack.running(stack.Options(home=existing)):
        assert existing.stat().st_mode & 0o7777 == 0o700


def test_parents_of_a_new_home_are_writable_by_their_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack.Stack, "start", lambda self, interrupted: None)
    before = os.umask(0)
    try:
        with stack.running(stack.Options(home=tmp_path / "new" / "home")):
            assert (tmp_path / "new").stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


def test_a_database_that_an_earlier_version_put_elsewhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a%20b").mkdir()
    (tmp_path / "a b" / "rung.db").touch()
    with pytest.raises(stack.StackError, match=f"put rung.db .* at {tmp_path}/a b/rung.db; move it to .*%20b/rung.db"):
        home.check_no_misplaced(tmp_path / "a%20b")
    (tmp_path / "a%20b" / "rung.db").touch()
    home.check_no_misplaced(tmp_path / "a%20b")


#: Stands in for Ray: starts a driver in a session of its own, and when it is ended says whether that was still there.
RAY = f"""
import os, signal, subprocess, sys, time
driver = subprocess.Popen({[*PYTHON, "-m", "workers.driver"]!r}, start_new_session=True, stdout=subprocess.PIPE)
driver.stdout.readline()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("ended with", driver.poll(), flush=True)))
print("up", flush=True)
while True:
    time.sleep(60)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")
def test_drivers_are_stopped_before_ray(a_stack: stack.Stack) -> None:
    ray = a_stack._children.spawn("ray", [sys.executable, "-c", RAY], os.environ)
    with subprocess.Popen([*PYTHON, "-m", "workers.driver"], stdout=subprocess.PIPE) as another:
        assert another.stdout is not None
        another.stdout.readline()
        deadline = time.monotonic() + 20
        while "up" not in ray.log.read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        a_stack.stop()
        lives = another.poll() is None
        another.kill()
    assert ray.log.read_text().splitlines() == ["up", "ended with -9"]
    assert lives, "it is the driver of another's Ray"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
def test_children_end_with_a_killed_parent(tmp_path: Path) -> None:
    sleep = "[sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(60)']"
    code = (
        "import os, sys, time; from pathlib import Path; from service.stack.children import Children; "
        f"child = Children(Path({str(tmp_path)!r})).spawn('child', {sleep}, os.environ); "
        "print(child.process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        watched = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        ended, _, _ = select.select([watched], [], [], 20)
        if not ended:
            signal.pidfd_send_signal(watched, signal.SIGKILL)
        os.close(watched)
    assert ended, "the child outlived its parent"
