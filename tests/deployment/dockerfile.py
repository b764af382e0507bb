"""Dockerfile: what docker/Dockerfile says of each image. It builds nothing."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

DOCKERFILE = Path(__file__).parents[2] / "docker" / "Dockerfile"
#: What images of Debian have.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


@dataclass(frozen=True)
class HealthCheck:
    """How a container shows that it is healthy: a command, and how long it may take until it does."""

    command: tuple[str, ...]
    interval_s: float = 30.0
    timeout_s: float = 30.0
    start_period_s: float = 0.0
    retries: int = 3


@dataclass(frozen=True)
class Image:
    """What a container of an image has unless it says otherwise.

    `steps` are the instructions that make its files, in order: those of its own stage, over the files of `parent`.
    `base` is the image of others at the bottom.
    """

    user: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health: HealthCheck | None = None
    base: str = ""
    parent: str = ""
    steps: tuple[tuple[str, str], ...] = ()
    exposed: tuple[int, ...] = ()
    folder: str = "/"
    stop_signal: int = signal.SIGTERM

    @property
    def copied(self) -> list[list[str]]:
        """The words of each COPY."""
        return [rest.split() for word, rest in self.steps if word == "COPY"]


def images(text: str | None = None) -> dict[str, Image]:
    """The stages by their names. A stage inherits what the one has that it is made from."""
    found: dict[str, Image] = {}
    name = ""
    for word, rest in instructions(DOCKERFILE.read_text() if text is None else text):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            below = found.get(base, Image(base=base, environment={"PATH": PATH}))
            found[name] = replace(below, parent=base, steps=())
            continue
        found[name] = _changed(found[name], word, rest)
    return found


def instructions(text: str) -> list[tuple[str, str]]:
    """Each instruction and its arguments on one line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, re.sub(r"\s+", " ", rest).strip())
        for word, _, rest in (line.partition(" ") for line in joined.split("\n"))
    ]


def seconds(duration: str) -> float:
    """A duration as Docker writes it, such as 1m30s."""
    return sum(float(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+)(ms|s|m)", duration))


def _changed(image: Image, word: str, rest: str) -> Image:
    match word:
        case "ENV":
            environment = dict(image.environment)
            for pair in shlex.split(rest):
                variable, _, value = pair.partition("=")
                environment[variable] = value.replace("$PATH", environment.get("PATH", ""))
            return replace(image, environment=environment)
        case "USER":
            return replace(image, user=rest)
        case "CMD":
            return replace(image, command=tuple(json.loads(rest)))
        case "ENTRYPOINT":
            return replace(image, entrypoint=tuple(json.loads(rest)))
        case "HEALTHCHECK":
            options, _, command = rest.partition("CMD ")
            given = dict(re.findall(r"--([a-z-]+)=(\S+)", options))
            interval, timeout, start = (seconds(given[name]) for name in ("interval", "timeout", "start-period"))
            retries = int(given["retries"])
            return replace(image, health=HealthCheck(tuple(json.loads(command)), interval, timeout, start, retries))
        case "RUN" | "COPY":
            return replace(image, steps=(*image.steps, (word, rest)))
        case "EXPOSE":
            return replace(image, exposed=(*image.exposed, *map(int, rest.split())))
        case "WORKDIR":
            return replace(image, folder=rest, steps=(*image.steps, (word, rest)))
        case "ARG":
            return image
    raise ValueError(f"instruction must be one that this module knows (got {word})")
