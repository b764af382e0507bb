"""Private files: secrets on this machine, which nobody else may be able to read.

Owns the checks before a secret is read, and how it is written. It must not know what the secrets are for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from search_spaces.storage.atomic import PRIVATE, atomic_write
from service.contract.errors import ConflictError

#: Permissions of everybody except the owner.
OTHERS = 0o077
#: A file of tokens for a thousand services has less.
MAX_BYTES = 1_000_000


class PrivateFileError(ConflictError):
    """A file of secrets cannot be used. The message says what to do."""


def read_private(path: Path) -> str | None:
    """The text of a file, or None where there is no file.

    Raises PrivateFileError if somebody else can read or replace what is in it: the secret may be known, or be another
    person's.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise PrivateFileError(f"cannot read {path}: {error.strerror}") from None
    try:
        _check_owner_only(path, os.fstat(descriptor))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise PrivateFileError(f"{path} must have at most {MAX_BYTES} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise PrivateFileError(f"{path} must be UTF-8 text") from None


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step. Raises PrivateFileError."""
    try:
        atomic_write(path, text.encode(), PRIVATE)
    except OSError as error:
        raise PrivateFileError(f"cannot write {path}: {error.strerror}") from None


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create a private folder, and hold its lock inside the block: another process waits. Raises PrivateFileError."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    except OSError as error:
        raise PrivateFileError(f"cannot use the folder {folder}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _check_owner_only(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise PrivateFileError(f"{path} must be a regular file")
    if found.st_uid not in {os.geteuid(), 0}:
        raise PrivateFileError(f"{path} must belong to you (its owner has the user id {found.st_uid})")
    if found.st_mode & OTHERS:
        raise PrivateFileError(
            f"{path} must be readable by you only (its mode is {stat.S_IMODE(found.st_mode):04o}): others may have "
            f"read its tokens. Revoke them, then run `chmod 600 {path}`. What a service made in its home is deleted "
            "instead: its next start makes another"
        )
