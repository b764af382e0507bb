"""Containers of the compose file in namespaces (tests/cluster): what they are made from, and that they keep apart."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.host import why_missing
from tests.cluster.installation import LEFT_OUT, Installation
from tests.cluster.layers import AFTER, INSTEAD, MACHINE, known_images
from tests.deployment import environment
from tests.deployment.compose_file import Service, document, services, size
from tests.deployment.dockerfile import DOCKERFILE, HealthCheck, images, instructions

needs_namespaces = pytest.mark.skipif(bool(why_missing()), reason=why_missing() or "none")
ANSWERS = ("socat", "TCP-LISTEN:5432,fork,reuseaddr", "SYSTEM:echo reached")
ASKS = ("socat", "-T2", "-", "TCP:postgres:5432,connect-timeout=1")


def test_every_service_has_an_image_here_or_a_reason_why_not() -> None:
    found = services(environment.filled_in(), known_images())
    assert found.keys() | LEFT_OUT.keys() == document()["services"].keys()
    assert found.keys() & LEFT_OUT.keys() == set()


def test_every_image_that_ours_are_made_from_has_a_stand_in() -> None:
    known = known_images()
    assert {image.base for image in images().values()} <= known.keys()
    assert {image.base for image in known.values() if image.base} - known.keys() == {MACHINE}


def test_what_is_done_otherwise_here_is_in_the_dockerfile() -> None:
    commands = [rest for word, rest in instructions(DOCKERFILE.read_text()) if word == "RUN"]
    for start in (*AFTER, *INSTEAD):
        assert len([one for one in commands if one.startswith(start)]) == 1, start


def test_every_container_can_be_made_and_knows_the_names_on_its_networks(tmp_path: Path) -> None:
    made = Installation(tmp_path, environment.filled_in(), profiles=("cpu", "gpu", "tools"))
    for service in made.services.values():
        made.make(service, [Path("/")])
    assert made.services.keys() == document()["services"].keys() - LEFT_OUT.keys()
    names = {name: (tmp_path / "names" / name / "hosts").read_text() for name in made.services}
    for name, text in names.items():
        own = set(made.services[name].networks)
        others = {one.name for one in made.services.values() if own & set(one.networks)}
        assert {line.split()[1] for line in text.splitlines()} == {"localhost", *others}


def test_profiles_say_which_worker_there_is(tmp_path: Path) -> None:
    cpu = Installation(tmp_path, environment.filled_in())
    gpu = Installation(tmp_path, environment.filled_in(), profiles=("gpu",))
    assert cpu.services.keys() ^ gpu.services.keys() == {"ray-worker", "ray-worker-gpu"}


@pytest.mark.parametrize(("text", "number"), [("64mb", 64 << 20), ("2gb", 2 << 30), ("5b", 5)])
def test_a_size_is_a_number_of_bytes(text: str, number: int) -> None:
    assert size(text) == number


@pytest.mark.parametrize("text", ["2", "2 gb", "gb", "2tb"])
def test_a_size_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a whole number and b, kb, mb or gb"):
        size(text)


@pytest.fixture(scope="module")
def running() -> Iterator[Installation]:
    """Two services of the file on a common network and one on another, with commands that need this machine only."""
    folder = Path(tempfile.mkdtemp(prefix="rung-containers-"))
    with Installation(folder, environment.filled_in()) as made:
        commands = {"rung": ("sleep", "infinity"), "postgres": ANSWERS, "prometheus": ("sleep", "infinity")}
        made.services = {name: on_this_machine(made.services[name], command) for name, command in commands.items()}
        made.up(timeout_s=60)
        yield made
    assert [one.is_running for one in map(made.__getitem__, commands)] == [False, False, False]
    shutil.rmtree(folder)


def on_this_machine(service: Service, command: tuple[str, ...]) -> Service:
    health = HealthCheck(("true",))
    return dataclasses.replace(service, image=f"{MACHINE}:1", target="", command=command, needs={}, health=health)


@needs_namespaces
def test_a_container_has_the_user_the_rights_and_the_files_of_the_compose_file(running: Installation) -> None:
    rung, postgres = running["rung"], running["postgres"]
    assert (
        output(running, "rung", "sh", "-c", "id -u; id -g; hostname; echo $RUNG_AUTH") == "1000\n1000\nrung\naccounts\n"
    )
    assert rung.exec("touch", "/etc/x").returncode != 0
    assert rung.exec("touch", "/tmp/x", "/home/rung/x").returncode == 0
    status = output(running, "rung", "grep", "-E", "^(CapEff|CapBnd|NoNewPrivs)", "/proc/1/status").split()
    assert status[1::2] == ["0" * 16, "0" * 16, "1"]
    assert output(running, "postgres", "grep", "CapEff", "/proc/1/status").split()[1] == f"{0xCB:016x}"
    assert postgres.exec("mount", "-t", "tmpfs", "tmpfs", "/mnt").returncode != 0
    processes = output(running, "rung", "sh", "-c", "ls -d /proc/[0-9]*").split()
    assert len(processes) < 10, "it sees those of the machine"


@needs_namespaces
def test_a_container_reaches_those_on_its_networks_only(running: Installation) -> None:
    assert output(running, "rung", *ASKS) == "reached\n"
    assert running["prometheus"].exec(*ASKS).returncode != 0
    number = [
        line.split()[0] for line in output(running, "rung", "cat", "/etc/hosts").splitlines() if "postgres" in line
    ]
    assert running["prometheus"].exec("socat", "-T2", "-", f"TCP:{number[0]}:5432,connect-timeout=1").returncode != 0
    assert subprocess.run(["ip", "link", "show", "net0"], capture_output=True, check=False).returncode != 0


@needs_namespaces
def test_a_link_that_is_cut_comes_back(running: Installation) -> None:
    postgres = running["postgres"]
    postgres.cut(running.host)
    assert running["rung"].exec(*ASKS).returncode != 0
    postgres.mend(running.host)
    wait_until(lambda: running["rung"].exec(*ASKS).stdout == "reached\n")


@needs_namespaces
def test_a_container_that_is_killed_starts_again_with_its_files_and_one_that_is_stopped_does_not(
    running: Installation,
) -> None:
    postgres = running["postgres"]
    first = postgres.pid
    assert postgres.exec("touch", "/var/tmp/kept").returncode == 0
    postgres.kill()
    wait_until(lambda: postgres.is_healthy() and running["rung"].exec(*ASKS).stdout == "reached\n")
    assert postgres.pid != first
    assert postgres.exec("ls", "/var/tmp/kept").returncode == 0
    postgres.stop()
    time.sleep(0.5)
    assert not postgres.is_running
    postgres.wanted = True
    wait_until(postgres.is_healthy)


def output(running: Installation, name: str, *words: str) -> str:
    done = running[name].exec(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
