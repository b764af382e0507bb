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
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, database: str) -> None:
        self._execute(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def start(self) -> None:
        options = {**FAST, "port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        options_text = " ".join(f"-c {name}={value}" for name, value in options.items())
        self.run("pg_ctl", "start", "-w", "-t", str(START_S), "-D", "data", "-l", "server.log", "-o", options_text)

    def stop(self, mode: str = "fast") -> None:
        """`mode` is pg_ctl's; immediate is as abrupt as a crash."""
        self.run("pg_ctl", "stop", "-w", "-t", str(START_S), "-D", "data", "-m", mode)

    def run(self, program: str, *arguments: str) -> None:
        as_user: dict[str, Any] = {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid} if self.user else {}
        subprocess.run(
            [self.programs / program, *arguments],
            cwd=self.folder,
            env={"PATH": os.defpath, "LC_ALL": "C", "HOME": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=2 * START_S,
            extra_groups=[] if self.user else None,
            **as_user,
        )

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server for the length of the block. Skips the test where PostgreSQL is not installed, or would run as root."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb in PATH or in /usr/lib/postgresql")
    user = _unprivileged() if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="rung-pg-"))
    if user:
        os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
    server = Postgres(folder, programs, _free_port(), user)
    try:
        server.run("initdb", "-D", "data", "-U", "rung", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        server.start()
        yield server
        server.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path | None:
    """The folder of the newest server's programs."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = str(installed[-1]) if installed else shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def _unprivileged() -> str:
    """A user that PostgreSQL will run as, which it refuses to do as root."""
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
