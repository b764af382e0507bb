"""Uploads: folders that are sent to MLflow file by file. If a folder is sent again, files that were accepted are not.

Owns which files were accepted. It must not know what they are, nor how a file is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


class Uploads:
    """The files that this process has sent. `on_sent` is called after each."""

    def __init__(self, on_sent: Callable[[], None] = lambda: None) -> None:
        self._on_sent = on_sent
        self._sent: set[tuple[str, Path, int, int]] = set()

    def send(self, folder: Path, owner: str, send_file: Callable[[str, str | None], None]) -> None:
        """Call `send_file` with the path and the folder in MLflow of each file below `folder`, for `owner`.

        A file is skipped if it was sent for the same owner and is unchanged. Raises what `send_file` raises; what was
        sent by then is not sent again.
        """
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            status = path.stat()
            file = owner, path, status.st_size, status.st_mtime_ns
            if file in self._sent:
                continue
            parent = path.parent.relative_to(folder)
            send_file(str(path), None if parent == Path() else parent.as_posix())
            self._sent.add(file)
            self._on_sent()
