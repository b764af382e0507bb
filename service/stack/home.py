"""Home: the folder of a stack: who holds it, what its `stack.json` says, and the secrets in it.

Everything written here is whole or not there, and for the owner's eyes only. It must not know processes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

STACK = "stack.json"


class StackError(Exception):
    """The stack could not start, or a part of it died. The message says which and what its log says."""


@dataclass(frozen=True)
class Addresses:
    """What `stack.json` says while a stack runs."""

    pid: int
    service: str
    mlflow: str
    ray_dashboard: str
    data_root: str


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """The folder, made private and locked inside the block.

    Raises StackError while another stack has it, and for one that cannot be a home.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)  # the token, the database and the journals are nobody else's
        opened = (home / "stack.lock").open("a+")
    except OSError as error:
        raise StackError(f"the home {home} cannot be used: {error.strerror}; a folder of your own required") from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"another `rung up` runs on {home}{_where(home)}") from None
        yield


def write_addresses(home: Path, addresses: Addresses) -> None:
    """Write where everything is, for the commands of this machine."""
    _write_whole(home / STACK, json.dumps(asdict(addresses), indent=2))


def remove_addresses(home: Path) -> None:
    (home / STACK).unlink(missing_ok=True)


def ray_token(home: Path) -> str:
    """The secret that Ray asks for: made once."""
    path = home / "ray_token"
    if not path.exists():
        _write_whole(path, secrets.token_hex(32))
    return path.read_text().strip()


def enable_wal(database: Path) -> None:
    """Have an SQLite file, which is made where there is none, keep a write-ahead log from now on (docs/decisions/0007).

    It stays as it is while somebody else reads it. Raises StackError for one that cannot be used.
    """
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=1)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise StackError(f"{database} cannot be used: {error}") from error


def ray_folder(home: Path) -> Path:
    """Under the home, or in the system's temporary folder where the path of Ray's sockets would be too long."""
    folder = home / "ray"
    if len(str(folder)) <= 40:
        return folder
    return Path(tempfile.gettempdir()) / f"rung-{hashlib.sha256(str(home).encode()).hexdigest()[:10]}"


def _where(home: Path) -> str:
    try:
        at = json.loads((home / STACK).read_text())
    except (OSError, ValueError):
        return ""
    return f": process {at['pid']}, {at['service']}"


def _write_whole(path: Path, text: str) -> None:
    part = path.with_suffix(".part")
    with open(part, "w", opener=_private) as file:
        file.write(text)
    part.replace(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
