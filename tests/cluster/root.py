"""Root: the file system of a container: the layers of its image, a folder for what it writes, and what is mounted."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Docker's own, for folders in memory.
TMPFS = "noexec,nosuid,nodev,mode=1777"


@dataclass(frozen=True)
class Bind:
    """A file or folder of this machine. The owner of a new volume is that of the image's folder in its place."""

    source: Path
    target: str
    read_only: bool = True
    is_volume: bool = False


@dataclass(frozen=True)
class Root:
    """`layers` are folders, the lowest last; `written` is a folder of the host's memory."""

    layers: Sequence[Path]
    written: Path
    binds: Sequence[Bind] = ()
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    shared_memory: int = 64 * 1024 * 1024
    read_only: bool = False

    def script(self) -> str:
        """Makes it the root of the shell that runs this, the first process in namespaces for mounts and processes."""
        upper, work, root = (self.written / name for name in ("upper", "work", "root"))
        lower = ":".join(map(str, self.layers))
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        lines = [
            "set -eu",
            f"mkdir -p {upper} {work} {root}",
            f"mount -t overlay -o {shlex.quote(options)} overlay {root}",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
            f"mount -t tmpfs -o size={self.shared_memory},mode=1777 shm {root}/dev/shm",
            f"mount --rbind /sys {root}/sys",
            *(line for bind in self.binds for line in _bound(bind, root)),
        ]
        for path, options in self.tmpfs.items():
            target = shlex.quote(f"{root}{path}")
            given = ",".join(filter(None, [TMPFS, options]))
            lines += [f"mkdir -p {target}", f"mount -t tmpfs -o {given} tmpfs {target}"]
        if self.read_only:
            lines.append(f"mount -o remount,ro {root}")
        return "\n".join([*lines, f"cd {root}", "pivot_root . .", "umount -l .", "cd /"])


def _bound(bind: Bind, root: Path) -> list[str]:
    source, target = shlex.quote(str(bind.source)), shlex.quote(f"{root}{bind.target}")
    lines = [f"if [ -d {source} ]; then mkdir -p {target}; else mkdir -p $(dirname {target}); touch {target}; fi"]
    if bind.is_volume:
        lines.append(
            f'if [ -z "$(ls -A {source})" ]; then'
            f" chown --reference={target} {source}; chmod --reference={target} {source}; fi"
        )
    lines.append(f"mount --bind {source} {target}")
    return [*lines, f"mount -o remount,bind,ro {target}"] if bind.read_only else lines
