"""Home: the folder of a stack. Owns its lock, its `stack.json` and its secrets.

Every file is written atomically and readable by its owner only. It must not know processes.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import secrets
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote

from search_spaces.phrases import shown
from search_spaces.problems import shorten
from search_spaces.storage.atomic import PRIVATE, atomic_write
from service.contract.home_files import MLFLOW_PASSWORD, OWNER_TOKEN, RESTORING, SECRET_KEY, STACK, STORAGE

LOCK = "stack.lock"
#: Each is in the home of every stack or service that has run, also of version 0.1.
OF_A_HOME = frozenset({LOCK, "rung.db", "ray_token"})
#: What may be in a home before its first start: data sets, what commands prepared of them, the storage of a service
#: that has its database elsewhere, and what a new disk or share has.
BEFORE_A_START = frozenset({"data", "cache", "storage", "lost+found", ".snapshot", ".snapshots"})


class StackError(Exception):
    """The stack could not start, or a child exited. The message names the child and has the end of its log."""


class StackOptionError(StackError):
    """An option or a setting has a value that cannot be used on this machine."""


@dataclass(frozen=True)
class Addresses:
    """The content of `stack.json` while a stack runs."""

    pid: int
    service: str
    mlflow: str
    ray_dashboard: str
    data_root: str


def _not_utf8(path: str) -> str:
    """Why the text of a path is not UTF-8: the path is not, or Python reads all paths in another encoding."""
    try:
        decoded = os.fsencode(path).decode()
    except UnicodeDecodeError:
        return f"the path of the home folder must be UTF-8 (got {shown(path)})"
    encoding = sys.getfilesystemencoding()
    return f"Python must read paths as UTF-8, for the home folder {decoded}: set LC_ALL=C.UTF-8 (got {encoding})"


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """Create the folder, make it private, and hold its lock inside the block.

    Raises StackError if another stack holds the lock, and StackOptionError if the folder cannot be used, or has files
    and is no home: others may need them.
    """
    path = str(home.absolute())
    try:
        path.encode()
    except UnicodeEncodeError:
        raise StackOptionError(_not_utf8(path)) from None
    try:
        _check_no_other_files(home)
        for parent in [one for one in reversed(home.parents) if not one.exists()]:
            parent.mkdir(mode=0o755)  # whatever the umask: others must not replace the home
        home.mkdir(mode=0o700, exist_ok=True)
        home.chmod(0o700)  # it holds the token, the database and the journals
        opened = (home / LOCK).open("a+")
    except OSError as error:
        raise StackOptionError(
            f"cannot use the home folder {home}: {error.strerror}; choose a folder that you can write to"
        ) from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"another `rung up` uses {home}{_where(home)}") from None
        yield


def _check_no_other_files(home: Path) -> None:
    found = {entry.name for entry in home.iterdir()} if home.is_dir() else set()
    if not found & OF_A_HOME and (others := sorted(found - BEFORE_A_START)):
        raise StackOptionError(
            f"the home folder must be new, empty or a home of Rung (got {home}, which has {shorten(others[0])}): "
            "it becomes private, so that nobody else could read what is in it"
        )


def check_restored(home: Path) -> None:
    """Raise StackOptionError for a home with a part of a backup only."""
    part = home / f"{STORAGE}{RESTORING}"
    if part.exists():
        raise StackOptionError(f"a restore was interrupted: repeat `rung restore`, or remove {part}")


def write_addresses(home: Path, addresses: Addresses) -> None:
    """Write the addresses, for commands on this machine."""
    atomic_write(home / STACK, json.dumps(asdict(addresses), indent=2).encode(), PRIVATE)


def remove_addresses(home: Path) -> None:
    (home / STACK).unlink(missing_ok=True)


def ray_token(home: Path) -> str:
    """The token that Ray requires. It is created once."""
    return _secret(home / "ray_token", size=32)


def mlflow_password(home: Path) -> str:
    """The password of the only user of MLflow. It is created once."""
    return _secret(home / MLFLOW_PASSWORD, size=16)  # it is part of a URL that people copy


def secret_key(home: Path) -> str:
    """The key that encrypts the secrets of webhooks in the database. It is created once."""
    path = home / SECRET_KEY
    if not path.exists():
        atomic_write(path, base64.urlsafe_b64encode(secrets.token_bytes(32)), PRIVATE)
    return path.read_text().strip()


def forget_mlflow_users(home: Path) -> None:
    """Remove the database of MLflow's users, which would keep the password of an earlier start."""
    (home / "mlflow_auth.db").unlink(missing_ok=True)


def _secret(path: Path, size: int) -> str:
    if not path.exists():
        atomic_write(path, secrets.token_hex(size).encode(), PRIVATE)
    return path.read_text().strip()


def owner_token(home: Path) -> str:
    """The token of the service of this home, which the service has created; empty where it asks for none."""
    try:
        return (home / OWNER_TOKEN).read_text().strip()
    except FileNotFoundError:
        return ""


def enable_wal(database: Path) -> None:
    """Switch a SQLite file, created if missing, to a write-ahead log (docs/decisions/0007).

    It is not changed while another process reads it. Raises StackError if it cannot be used.
    """
    try:
        with contextlib.closing(sqlite3.connect(database, timeout=1)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise StackError(f"cannot use {database}: {error}") from error


def check_no_misplaced(home: Path) -> None:
    """Raises StackError if an earlier version put a database of this home elsewhere.

    It took `?`, `%20` and the like in the path of the home for parts of a URL.
    """
    for name in ("rung.db", "mlflow.db"):
        expected = home / name
        elsewhere = Path(unquote(str(expected).partition("?")[0]))
        if elsewhere != expected and elsewhere.is_file() and not expected.exists():
            raise StackError(f"an earlier version put {name} of this home folder at {elsewhere}; move it to {expected}")


def _where(home: Path) -> str:
    try:
        at = json.loads((home / STACK).read_text())
    except (OSError, ValueError):
        return ""
    return f": process {at['pid']}, {at['service']}"
