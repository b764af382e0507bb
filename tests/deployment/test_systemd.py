"""The units of docker/systemd are valid, run what the images run, and get settings that are valid."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.environment import read_settings
from tests.deployment.compose_file import FOLDER, document
from tests.deployment.dockerfile import images

SYSTEMD = FOLDER / "systemd"
#: Each unit, the image that runs the same program, and the service of docker/compose.yaml.
UNITS = {
    "rung": ("service", "rung"),
    "mlflow": ("mlflow", "mlflow"),
    "ray-head": ("worker", "ray-head"),
    "ray-worker": ("worker", "ray-worker"),
}
#: From 0, nothing is exposed, to 10; systemd calls up to 4.9 medium.
MOST_EXPOSED = 4.0
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def values(unit: str, name: str) -> list[str]:
    """The values of a setting of a unit, which may have several."""
    text = (SYSTEMD / f"{unit}.service").read_text()
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


def environment(unit: str) -> dict[str, str]:
    pairs = (pair.partition("=") for line in values(unit, "Environment") for pair in shlex.split(line))
    return {name: value for name, _, value in pairs}


def example(unit: str) -> dict[str, str]:
    """The variables of the file that a unit reads."""
    [path] = values(unit, "EnvironmentFile")
    lines = (SYSTEMD / f"{Path(path).name}.example").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


@needs_systemd
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = (SYSTEMD / f"{unit}.service").read_text()
        (tmp_path / f"{unit}.service").write_text(text.replace("/opt/rung/", f"{sys.prefix}/"))
    command = ["systemd-analyze", "verify", *map(str, tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_exposed_little(unit: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(SYSTEMD / f"{unit}.service")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    level = re.search(r"exposure level for \S+ ([\d.]+)", done.stdout)
    assert level is not None, done.stderr
    assert float(level[1]) <= MOST_EXPOSED


def test_every_unit_is_here() -> None:
    assert {path.stem for path in SYSTEMD.glob("*.service")} == UNITS.keys()


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_runs_the_command_of_the_service_of_the_compose_file(unit: str) -> None:
    target, service = UNITS[unit]
    wanted = [str(word) for word in document()["services"][service].get("command", images()[target].command)]
    [given] = values(unit, "ExecStart")
    program, *options = shlex.split(given)
    assert program == f"/opt/rung/bin/{wanted[0]}"
    addresses = ("--address", "--allowed-hosts", "--artifacts-destination")

    def plain(words: list[str]) -> list[str]:
        return [word.partition("=")[0] if word.startswith(addresses) else word for word in words]

    assert plain(options) == plain(wanted[1:])


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_has_the_variables_of_the_image(unit: str) -> None:
    image = images()[UNITS[unit][0]].environment
    own = {"PATH", "PYTHONDONTWRITEBYTECODE", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"}
    from_the_file = {"RUNG_HOME", "RUNG_HOST", "RUNG_PORT"}
    wanted = {name: value for name, value in image.items() if name not in own | from_the_file}
    assert wanted.items() <= environment(unit).items()


@pytest.mark.parametrize("unit", UNITS)
def test_the_variables_in_the_command_are_in_the_file_that_the_unit_reads(unit: str) -> None:
    [command] = values(unit, "ExecStart")
    assert set(re.findall(r"\$\{(\w+)\}", command)) <= example(unit).keys()


def test_the_settings_in_the_example_are_valid() -> None:
    settings = read_settings({**environment("rung"), **example("rung")})
    assert settings.auth == "accounts"
    for root in (settings.storage_root, str(settings.data_root)):
        assert any(root.startswith(path.removeprefix("-")) for path in values("rung", "ReadWritePaths"))


def test_no_secret_has_a_value() -> None:
    for unit in UNITS:
        assert example(unit).get("RAY_AUTH_TOKEN", "") == ""
        for value in example(unit).values():
            assert "PASSWORD@" in value or "://" not in value or "@" not in value


def test_a_driver_has_time_to_end_before_ray_is_killed() -> None:
    [limit] = values("ray-head", "TimeoutStopSec")
    assert int(limit) > int(environment("ray-head")["RAY_JOB_STOP_WAIT_TIME_S"])
