"""Compose file: the services of docker/compose.yaml, with the variables of an environment put in. It starts nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.deployment.dockerfile import HealthCheck, Image, seconds

FOLDER = Path(__file__).parents[2] / "docker"
COMPOSE = FOLDER / "compose.yaml"
#: What the file may say of a service: what tests/cluster does, and the sizes of logs, which need an engine.
KNOWN = frozenset(
    (
        *("build", "image", "entrypoint", "command", "user", "environment", "init", "restart", "profiles", "deploy"),
        *("networks", "ports", "volumes", "tmpfs", "read_only", "shm_size", "depends_on", "healthcheck", "logging"),
        *("cap_add", "cap_drop", "security_opt", "stop_grace_period", "env_file"),
    )
)
VARIABLE = re.compile(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}")


class MissingVariableError(Exception):
    """A variable that the file demands has no value."""


@dataclass(frozen=True)
class Mount:
    """A volume of the file, or a file or folder beside it."""

    source: str
    target: str
    read_only: bool

    @property
    def is_volume(self) -> bool:
        return not self.source.startswith(("/", "."))


@dataclass(frozen=True)
class Service:
    """One service: what the file says of it, and what its image has where the file says nothing."""

    name: str
    image: str
    target: str
    user: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    health: HealthCheck | None
    networks: tuple[str, ...]
    mounts: tuple[Mount, ...]
    tmpfs: Mapping[str, str]
    needs: Mapping[str, str]
    ports: tuple[str, ...]
    profiles: tuple[str, ...]
    folder: str
    capabilities: tuple[str, ...]
    dropped: tuple[str, ...]
    security: tuple[str, ...]
    read_only: bool
    init: bool
    restarts: bool
    shared_memory: int
    stop_grace_s: float
    stop_signal: int


def document() -> dict[str, Any]:
    """The file with its anchors resolved, and its variables as they are."""
    read: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return read


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """A part of the file with its variables put in. Raises MissingVariableError."""
    if isinstance(value, dict):
        return {key: interpolated(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [interpolated(one, variables) for one in value]
    return VARIABLE.sub(lambda found: _value(found, variables), value) if isinstance(value, str) else value


def services(variables: Mapping[str, str], images: Mapping[str, Image]) -> dict[str, Service]:
    """The services by name. `images` has one for each target of the Dockerfile, and for each other image by its name
    without a tag; services whose image is not in it are left out. Raises MissingVariableError."""
    found = {}
    for name, given in interpolated(document()["services"], variables).items():
        target = given.get("build", {}).get("target", "")
        reference = given["image"]
        built = {one["image"]: one["build"]["target"] for one in _built(variables)}
        image = images.get(target or built.get(reference, reference.rpartition(":")[0]))
        if image is not None:
            found[name] = _service(name, given, target or built.get(reference, ""), image)
    return found


def size(text: str) -> int:
    """A number of bytes as the file writes it, such as 2gb."""
    found = re.fullmatch(r"(\d+)(b|kb|mb|gb)", text)
    if found is None:
        raise ValueError(f"a size must be a whole number and b, kb, mb or gb (got {text!r})")
    units = {"b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
    return int(found[1]) * units[found[2]]


def _built(variables: Mapping[str, str]) -> list[dict[str, Any]]:
    return [one for one in interpolated(document()["services"], variables).values() if "build" in one]


def _service(name: str, given: Mapping[str, Any], target: str, image: Image) -> Service:
    if unknown := given.keys() - KNOWN:
        raise ValueError(f"services.{name} must have fields that this module knows (got {', '.join(sorted(unknown))})")
    entrypoint = given.get("entrypoint", image.entrypoint)
    return Service(
        name=name,
        image=given["image"],
        target=target,
        user=given.get("user", image.user),
        command=(*entrypoint, *map(str, given.get("command", image.command))),
        environment={**image.environment, **_of_files(given.get("env_file", [])), **given.get("environment", {})},
        health=_health(given["healthcheck"]) if "healthcheck" in given else image.health,
        networks=tuple(given.get("networks", ["default"])),
        mounts=tuple(_mount(one) for one in given.get("volumes", [])),
        tmpfs={path: options for path, _, options in (one.partition(":") for one in given.get("tmpfs", []))},
        needs={one: how["condition"] for one, how in given.get("depends_on", {}).items()},
        ports=tuple(given.get("ports", [])),
        profiles=tuple(given.get("profiles", [])),
        folder=image.folder,
        capabilities=tuple(given.get("cap_add", [])),
        dropped=tuple(given.get("cap_drop", [])),
        security=tuple(given.get("security_opt", [])),
        read_only=given.get("read_only", False),
        init=given.get("init", False),
        restarts=given.get("restart") == "unless-stopped",
        shared_memory=size(given.get("shm_size", "64mb")),
        stop_grace_s=seconds(given.get("stop_grace_period", "10s")),
        stop_signal=image.stop_signal,
    )


def _health(given: Mapping[str, Any]) -> HealthCheck | None:
    if given.get("disable"):
        return None
    kind, *command = given["test"]
    if kind != "CMD":
        raise ValueError(f"healthcheck.test must begin with CMD (got {kind})")
    interval, timeout, start = (seconds(given[name]) for name in ("interval", "timeout", "start_period"))
    return HealthCheck(tuple(command), interval, timeout, start, given["retries"])


def _mount(text: str) -> Mount:
    source, target, *options = text.split(":")
    return Mount(source, target, "ro" in options)


def _of_files(given: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The variables of files beside the Compose file, of which one that is not `required` may be absent."""
    found: dict[str, str] = {}
    for one in given:
        if one.get("required", True) or (FOLDER / one["path"]).exists():
            found |= values(FOLDER / one["path"])
    return found


def values(file: Path) -> dict[str, str]:
    """The variables of a file of Docker Compose."""
    lines = (line for line in file.read_text().splitlines() if line and not line.startswith("#"))
    return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, kind, rest = found.groups()
    value = variables.get(name, "")
    if kind == ":?" and not value:
        raise MissingVariableError(f"{name} {rest}")
    return value or (rest if kind == ":-" else "")
