"""Owner token: the only token of a service with one user, in a file of its home that only its owner can read.

It must not know who sends it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from search_spaces.storage.atomic import PRIVATE, atomic_write
from service.contract.home_files import OWNER_TOKEN
from service.identity import tokens
from service.identity.tokens import TokenKind

#: A token has 56 characters.
MAX_BYTES = 1024


class OwnerTokenError(Exception):
    """The file cannot be used. The message says why, and what to do."""


def read_or_make(home: Path) -> str:
    """The token; it is made if the file is missing. Raises OwnerTokenError."""
    path = home / OWNER_TOKEN
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists() and not path.is_symlink():
            atomic_write(path, f"{tokens.make(TokenKind.PERSON)}\n".encode(), PRIVATE)
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            status = os.fstat(file.fileno())
            text = file.read(MAX_BYTES).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OwnerTokenError(f"{path} cannot be used: {error}") from error
    if not stat.S_ISREG(status.st_mode) or stat.S_IMODE(status.st_mode) & 0o077:
        raise OwnerTokenError(f"{path} must be readable by its owner only: run chmod 600 {path}, or delete it")
    if not tokens.is_well_formed(text):
        raise OwnerTokenError(f"{path} must hold a token of Rung; delete it, and the next start makes another")
    return text
