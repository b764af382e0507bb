"""A real PostgreSQL server in a folder of its own, on a free port of this machine."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

START_S = 60
#: Data need not survive a power failure, so nothing waits for a disk; committed data survives a killed server.
FAST = {"fsync": "off", "full_page_writes": "off", "max_connections": "200"}


@dataclass(frozen=True)
class Postgres:
    """A server in a folder of its own. `stop` and `start` keep its port and its data."""

    folder: Path
    programs: Path
    port: int
    user: str | None

    def url(self, database: str) -> str:
        return f"postgresql://rung@127.0.0.1:{self.port}/{database}"

    def create(self, template: str = "template0") -> str:
        """The name of a new database, a copy of another that nobody is connected to."""
        name = f"t{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, database: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def start(self) -> None:
        options = " ".join(f"-c {name}={value}" for name, value in self._options().items())
        self.run("pg_ctl", "start", "-w", "-t", str(START_S), "-D", "data", "-l", "server.log", "-o", options)

    def stop(self, mode: str = "fast") -> None:
        """`mode` is pg_ctl's; immediate is as abrupt as a crash."""
        self.run("pg_ctl", "stop", "-w", "-t", str(START_S), "-D", "data", "-m", mode)

    def initialize(self) -> None:
        """Create the cluster, in a folder that belongs to the user who runs the server."""
        if self.user:
            shutil.chown(self.folder, self.user, pwd.getpwnam(self.user).pw_gid)
        self.run("initdb", "-D", "data", "-U", "rung", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")

    def foreground(self) -> list[str]:
        """The command of a server that stays in the foreground, to be run with `popen_options`."""
        options = (word for name, value in self._options().items() for word in ("-c", f"{name}={value}"))
        return [str(self.programs / "postgres"), "-D", "data", *options]

    def popen_options(self) -> dict[str, Any]:
        """Where and as whom its programs run: PostgreSQL refuses to run as root."""
        if self.user is None:
            return {"cwd": self.folder}
        group = pwd.getpwnam(self.user).pw_gid
        return {"cwd": self.folder, "user": self.user, "group": group, "extra_groups": []}

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.programs / program, *arguments],
            env={"PATH": os.defpath, "LC_ALL": "C", "HOME": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=2 * START_S,
            **self.popen_options(),
        )

    def _options(self) -> dict[str, str]:
        return {**FAST, "port": str(self.port), "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server for the length of the block. Skips the test where none can run."""
    if missing := why_missing():
        pytest.skip(missing)
    folder = Path(tempfile.mkdtemp(prefix="rung-pg-"))
    server = installed(folder, _free_port())
    try:
        server.initialize()
        server.start()
        yield server
        server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def installed(folder: Path, port: int) -> Postgres:
    """A server of the installed PostgreSQL, whose cluster does not exist yet. Call it only if none is missing."""
    return Postgres(folder, _programs()[-1], port, _unprivileged() if os.geteuid() == 0 else None)


def why_missing() -> str:
    """The reason why no server can run on this machine; empty if one can."""
    if not _programs():
        return "PostgreSQL is not installed: no initdb in PATH or in /usr/lib/postgresql"
    if os.geteuid() == 0 and _unprivileged() is None:
        return "PostgreSQL does not run as root, and there is neither a user postgres nor nobody"
    return ""


def _programs() -> list[Path]:
    """The folders of the installed servers' programs, the newest last. Debian installs them outside PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = shutil.which("initdb")
    return [path.resolve().parent for path in installed or ([Path(found)] if found else [])]


def _unprivileged() -> str | None:
    """A user that PostgreSQL will run as."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
