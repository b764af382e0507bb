"""The images of docker/Dockerfile: pinned, without root, with health checks, and made of files that exist."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deployment.dockerfile import DOCKERFILE, images, instructions

ROOT = DOCKERFILE.parents[1]
#: What is run; the other stages are built from.
RUN = ("service", "worker", "worker-cpu", "mlflow", "tools")


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    command = [Path(sys.executable).with_name("hadolint"), DOCKERFILE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("name", RUN)
def test_an_image_runs_as_a_user_who_is_not_root(name: str) -> None:
    assert images()[name].user == "1000:1000"


@pytest.mark.parametrize("name", [one for one in RUN if one != "tools"])
def test_the_health_check_of_an_image_asks_a_port_that_it_serves(name: str) -> None:
    image = images()[name]
    assert image.health is not None
    asked = image.health.command[-1]
    ports = {"52365", *map(str, image.exposed)}  # that of Ray's agent is for the node only
    assert any(f"127.0.0.1:{port}/" in asked for port in ports), asked


def test_all_packages_have_the_versions_of_the_constraints() -> None:
    installs = [rest for word, rest in instructions(DOCKERFILE.read_text()) if word == "RUN" and "pip install" in rest]
    assert len(installs) == 5
    assert [one for one in installs if "--constraint constraints.txt" not in one] == []


def test_the_python_of_the_constraints_is_that_of_the_images() -> None:
    """The pins are those of one version of Python."""
    assert images()["service"].base.startswith(f"python:{sys.version_info.major}.{sys.version_info.minor}-")


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    ignored = set((ROOT / ".dockerignore").read_text().split())
    copied = {one for image in images().values() for words in image.copied for one in words[:-1] if "=" not in one}
    built = {one for one in copied if one.startswith("/")}  # from another stage
    assert copied - built >= {
        "constraints.txt",
        "pyproject.toml",
        "service",
        "workers",
        "search_spaces",
        "rung",
        "rung_mlflow",
    }
    assert [one for one in copied - built if not (ROOT / one).exists() or one in ignored] == []


def test_every_image_that_runs_drivers_has_its_python_at_the_path_of_the_service() -> None:
    for name in RUN:
        assert images()[name].copied[-1][-1] == "/opt/rung", name
        assert images()[name].environment["PATH"].startswith("/opt/rung/bin:")
