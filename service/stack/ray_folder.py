"""Ray's folder: where Ray keeps its sockets, its logs and what it spills to disk.

Owns that only the owner can open it, that no other user can make it first, and that its path is short and plain enough.
It must not know processes.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

from service.stack.home import StackError

#: In bytes. The path of a socket on Linux has at most 107: this folder, 1 + 42 of `/session_` with the date and the
#: process, 9 of `/sockets/`, and 19 of `dash_TaskEventsHead`.
MAX_LENGTH = 107 - 1 - 42 - 9 - 19
#: Ray lets everybody write in its folder, so that it lies in a private one. The name is short for the same reason.
INNER = "s"
#: In bytes, of the private folder.
MAX_PRIVATE_LENGTH = MAX_LENGTH - len(f"/{INNER}")
#: Ray splits the commands of its processes at spaces, and Python and pyarrow take some characters for those of a URL.
PLAIN = re.compile(r"[A-Za-z0-9._/-]+")
#: In the home folder: a link to Ray's folder, if that lies elsewhere.
LINK = "ray_folder"
#: The longest path of a folder for temporary files in which the sockets of Python and torch have room.
MAX_TEMPORARY_LENGTH = 60


def ray_folder(home: Path) -> Path:
    """The folder, in a private one: in the home, or, if its path is too long or not plain there, among temporary files.

    A private folder outside the home has a random name and is found again by a link in the home. Raises StackError.
    """
    inside, link = home / "ray", home / LINK
    if _is_suitable(inside, MAX_PRIVATE_LENGTH):
        inside.mkdir(mode=0o700, exist_ok=True)
        inside.chmod(0o700)
        return inside / INNER
    if link.is_symlink() and _is_private(known := link.readlink()) and _is_suitable(known, MAX_PRIVATE_LENGTH):
        return known / INNER
    made = _make_outside()
    link.unlink(missing_ok=True)
    link.symlink_to(made)
    return made / INNER


def remove(home: Path) -> None:
    """Delete a private folder that lies outside the home."""
    link = home / LINK
    if link.is_symlink():
        if _is_private(private := link.readlink()):
            shutil.rmtree(private, ignore_errors=True)
        link.unlink()


def temporary_folder(folder: Path) -> Path | None:
    """A folder for temporary files beside Ray's, if the usual one does not suit; None if it does."""
    with contextlib.suppress(OSError):  # there is none
        if _is_suitable(Path(tempfile.gettempdir()), MAX_TEMPORARY_LENGTH):
            return None
    made = folder.with_name("tmp")
    made.mkdir(mode=0o700, exist_ok=True)
    return made


def session_log(folder: Path) -> Path | None:
    """The log of Ray's present session that a process of Ray wrote last before it failed; None without one."""
    logs = folder / "session_latest" / "logs"
    found: list[tuple[float, Path]] = []
    for name in ("raylet.err", "gcs_server.err", "dashboard.err", "raylet.out", "gcs_server.out"):
        with contextlib.suppress(OSError):
            status = (logs / name).stat()
            found += [(status.st_mtime, logs / name)] if status.st_size else []
    errors = [one for one in found if one[1].suffix == ".err"]
    return max(errors or found)[1] if found else None


def _make_outside() -> Path:
    parents = [Path("/tmp"), Path("/var/tmp")]
    with contextlib.suppress(OSError):
        parents.insert(0, Path(tempfile.gettempdir()))
    for parent in parents:
        if _is_suitable(parent / "rung-12345678", MAX_PRIVATE_LENGTH):
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="rung-", dir=parent))
    most = MAX_PRIVATE_LENGTH - len("/rung-12345678")
    raise StackError(
        "there is no folder for Ray's sockets: set TMPDIR to a folder that you can write to, with a path of at most "
        f"{most} letters, digits, '.', '_', '-' and '/' (tried {', '.join(dict.fromkeys(map(str, parents)))})"
    )


def _is_suitable(path: Path, longest: int) -> bool:
    return len(os.fsencode(path)) <= longest and PLAIN.fullmatch(str(path)) is not None


def _is_private(path: Path) -> bool:
    """Whether this is a folder, and only its owner, who is this user, can open it."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077
